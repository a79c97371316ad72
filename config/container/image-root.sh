#!/bin/sh
# Puts what the image consists of into a folder: image-root.sh BINARY FOLDER
#
#   SYSROOT=FOLDER     where the shared libraries are; without it, those of this system
#   STRIP=PROGRAM      of a toolchain for the binary's machine
#
# Shared libraries rather than a static binary: glibc's resolver, which finds cameras by name, loads
# libraries at run time even then. Those that the binary names are taken, and the loader, so the image does
# not care on which distribution it was linked.
set -eu

binary=$1
root=$2
here=$(dirname "$0")

mkdir -p "$root/usr/local/bin" "$root/etc/penstock" "$root/etc/ssl/certs" "$root/usr/lib/ssl" "$root/run" "$root/tmp"
# Symbols stay, for profiles; lines of source do not.
"${STRIP:-strip}" --strip-debug -o "$root/usr/local/bin/penstock" "$binary"
chmod 0755 "$root/usr/local/bin/penstock"

libraries=$("$here/libraries.sh" "$binary" "${SYSROOT:-}")
printf '%s\n' "$libraries" | while read -r place file; do
    mkdir -p "$root$(dirname "$place")"
    cp --dereference "$file" "$root$place"
done

# For cameras by RTSPS: where OpenSSL looks.
cp --dereference /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
ln -sf /etc/ssl/certs/ca-certificates.crt "$root/usr/lib/ssl/cert.pem"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
printf 'root:x:0:0:root:/:\nnobody:x:65534:65534:nobody:/:\n' >"$root/etc/passwd"
cp "$here/../penstock.toml" "$root/etc/penstock/penstock.toml"
