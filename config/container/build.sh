#!/bin/sh
# Builds the image: config/container/build.sh [TAG]
#
#   ENGINE=podman      or docker; more words are options that come before the command
#   BUILDER=IMAGE      what the compilation starts from: Debian 12 or newer
#   BINARY=FILE        pack this binary instead of compiling in a container
#
# The labels say what is in the image: version, commit, build id of the binary and of the BPF object,
# as `penstock version` does. They are known only after the compilation, so the last stage is built after it, from
# a folder with what the first has made.
set -eu

tag=${1:-penstock:latest}
engine=${ENGINE:-podman}
# For podman: the format of OCI has no health checks.
export BUILDAH_FORMAT=docker
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if [ -n "${BINARY:-}" ]; then
    config/container/image-root.sh "$BINARY" "$folder/image"
    version=$("$BINARY" version)
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
BUILDAH_LAYERS=false $engine build --build-context "build=$folder" --tag "$tag" --file config/container/Dockerfile \
    --label "org.opencontainers.image.title=penstock" \
    --label "org.opencontainers.image.description=WebRTC media forwarder whose datapath runs in XDP" \
    --label "org.opencontainers.image.licenses=MIT OR Apache-2.0" \
    --label "org.opencontainers.image.version=$(field penstock | cut -d' ' -f1)" \
    --label "org.opencontainers.image.revision=$(field commit)" \
    --label "penstock.build-id=$(field 'build id')" \
    --label "penstock.bpf-build-id=$(field 'BPF build id')" \
    "$folder"
