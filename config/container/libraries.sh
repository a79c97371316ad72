#!/bin/sh
# The shared libraries of a program, and its loader: libraries.sh BINARY [SYSROOT]
# A line each: the place where the loader looks, and the file.
#
# Read from the files (DT_NEEDED, PT_INTERP), not asked of the loader: the program may be another machine's.
set -eu

binary=$1
sysroot=${2:-}

dynamic() { LC_ALL=C readelf --wide --dynamic "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p'; }
loader=$(LC_ALL=C readelf --wide --program-headers "$binary" | sed -n 's/.*program interpreter: \(.*\)\]$/\1/p')
case $loader in
*x86-64*) triplet=x86_64-linux-gnu ;;
*aarch64*) triplet=aarch64-linux-gnu ;;
*) echo "$binary is no dynamic program for x86-64 or aarch64" >&2 && exit 1 ;;
esac

find_library() {
    for folder in "lib/$triplet" "usr/lib/$triplet" lib64 usr/lib64 lib usr/lib; do
        if [ -e "$sysroot/$folder/$1" ]; then
            echo "$sysroot/$folder/$1"
            return
        fi
    done
    echo "$1 is not below ${sysroot:-/}" >&2
    return 1
}

echo "$loader $(find_library "$(basename "$loader")")"
todo=$(dynamic "$binary")
seen=" $(basename "$loader") "
while [ -n "$todo" ]; do
    name=$(printf '%s\n' "$todo" | head -n 1)
    todo=$(printf '%s\n' "$todo" | tail -n +2)
    case $seen in *" $name "*) continue ;; esac
    seen="$seen$name "
    file=$(find_library "$name")
    echo "/usr/lib/$triplet/$name $file"
    todo=$(printf '%s\n%s\n' "$todo" "$(dynamic "$file")" | sed '/^$/d')
done
