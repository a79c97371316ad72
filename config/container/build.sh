#!/bin/sh
# Builds the image: config/container/build.sh [--arch x86_64|aarch64] [TAG]
#
#   ENGINE=podman      or docker; more words are options that come before the command
#   BUILDER=IMAGE      what the compilation starts from: Debian 12 or newer
#   BINARY=FILE        pack this binary instead of compiling in a container
#
# The image of another architecture is made of what `cargo xtask release --arch` builds on this machine, with
# libraries of Debian's archive, below target/cross: nothing in it is emulated but `penstock version`, for the labels.
# BINARY is then one for that architecture, which that command has built.
#
# The labels say what is in the image: version, commit, build id of the binary and of the BPF object,
# as `penstock version` does. They are known only after the compilation, so the last stage is built after it, from
# a folder with what the first has made.
set -eu

here=$(uname -m)
arch=$here
if [ "${1:-}" = --arch ]; then
    arch=${2:?--arch x86_64 or aarch64}
    shift 2
fi
case $arch in
x86_64) platform=linux/amd64 ;;
aarch64) platform=linux/arm64 ;;
*) echo "$arch is neither x86_64 nor aarch64" >&2 && exit 2 ;;
esac
tag=${1:-penstock:latest}
engine=${ENGINE:-podman}
# For podman: the format of OCI has no health checks.
export BUILDAH_FORMAT=docker
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

run=
if [ "$arch" != "$here" ]; then
    if [ -z "${BINARY:-}" ]; then
        cargo xtask release --binary --arch "$arch"
        BINARY=target/$arch-unknown-linux-gnu/release/penstock
    fi
    tools=target/cross/bin/$arch-linux-gnu
    export SYSROOT=target/cross/root STRIP="$tools-strip"
    run=$tools-run
fi

if [ -n "${BINARY:-}" ]; then
    config/container/image-root.sh "$BINARY" "$folder/image"
    version=$($run "$BINARY" version)
else
    commit=$(git rev-parse HEAD)
    [ -z "$(git status --porcelain --untracked-files=no)" ] || commit=$commit-dirty
    set -- --build-arg "PENSTOCK_COMMIT=$commit"
    [ -z "${BUILDER:-}" ] || set -- "$@" --build-arg "BUILDER=$BUILDER"
    $engine build "$@" --target build --tag "$tag-build" --file config/container/Dockerfile .
    version=$($engine run --rm "$tag-build" /image/usr/local/bin/penstock version)
    container=$($engine create "$tag-build" none)
    $engine cp "$container:/image" "$folder/image"
    $engine rm "$container"
fi

field() { printf '%s\n' "$version" | sed -n "s/^$1 *//p"; }
# One layer is enough: there is nothing to reuse.
BUILDAH_LAYERS=false $engine build --platform "$platform" --build-context "build=$folder" --tag "$tag" --file config/container/Dockerfile \
    --label "org.opencontainers.image.title=penstock" \
    --label "org.opencontainers.image.description=WebRTC media forwarder whose datapath runs in XDP" \
    --label "org.opencontainers.image.licenses=MIT OR Apache-2.0" \
    --label "org.opencontainers.image.version=$(field penstock | cut -d' ' -f1)" \
    --label "org.opencontainers.image.revision=$(field commit)" \
    --label "penstock.build-id=$(field 'build id')" \
    --label "penstock.bpf-build-id=$(field 'BPF build id')" \
    "$folder"
