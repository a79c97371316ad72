#!/bin/sh
# Packs a release: archive.sh BINARY VERSION ARCHITECTURE FOLDER
# Makes FOLDER/penstock-VERSION-ARCHITECTURE.tar.gz and prints its name. SYSROOT and STRIP as for image-root.sh.
#
# The archive carries the libraries that the binary names, glibc among them, and its loader: it runs on any Linux of
# that architecture, whatever its libraries are. `penstock` in it is a script that calls that loader.
set -eu

binary=$1
name=penstock-$2-$3
out=$4
here=$(dirname "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/$name

mkdir -p "$root/lib" "$root/share" "$out"
"${STRIP:-strip}" --strip-debug -o "$root/lib/penstock" "$binary"
chmod 0755 "$root/lib/penstock"
libraries=$("$here/libraries.sh" "$binary" "${SYSROOT:-}")
loader=$(basename "$(printf '%s\n' "$libraries" | head -n 1 | cut -d' ' -f1)")
printf '%s\n' "$libraries" | while read -r place file; do
    cp --dereference "$file" "$root/lib/$(basename "$place")"
done
cp --dereference /etc/ssl/certs/ca-certificates.crt "$root/share/ca-certificates.crt"
cp "$here/../penstock.toml" "$here/../penstock.service" "$root/share/"

cat >"$root/penstock" <<EOF
#!/bin/sh
# Penstock with the libraries that it came with. Certificates of authorities, for cameras by RTSPS: the system's where
# OpenSSL finds them, or those in here.
here=\$(dirname "\$(readlink -f "\$0")")
[ -e /usr/lib/ssl/certs ] || [ -e /usr/lib/ssl/cert.pem ] || export SSL_CERT_FILE="\${SSL_CERT_FILE:-\$here/share/ca-certificates.crt}"
exec "\$here/lib/$loader" --argv0 "\$0" --library-path "\$here/lib" "\$here/lib/penstock" "\$@"
EOF
chmod 0755 "$root/penstock"
tar --create --gzip --owner=0 --group=0 --numeric-owner --sort=name --file "$out/$name.tar.gz" --directory "$folder" "$name"
echo "$out/$name.tar.gz"
