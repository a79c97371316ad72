#!/bin/sh
# Builds the image: config/container/build.sh [TAG]
#
#   ENGINE=podman      or docker; more words are options that come before the command
#   BUILDER=IMAGE      what the compilation starts from: Debian 12 or newer
#   BINARY=FILE        pack this binary instead of compiling in a container
#
# The labels say what is in the image: version, commit, build id of the binary and of the BPF object,
# as `penstock version` does. They are known only after the compilation, so the last stage is built after it.
set -eu

tag=${1:-penstock:latest}
engine=${ENGINE:-podman}
# For podman: the format of OCI has no health checks.
export BUILDAH_FORMAT=docker
cd "$(dirname "$0")/../.."

if [ -n "${BINARY:-}" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    config/container/image-root.sh "$BINARY" "$folder/image"
    version=$("$BINARY" version)
    set -- --build-context "build=$folder"
    context=$folder
    # Nothing to reuse, so one layer is enough.
    export BUILDAH_LAYERS=false
else
    commit=$(git rev-parse HEAD)
    [ -z "$(git status --porcelain --untracked-files=no)" ] || commit=$commit-dirty
    set -- --build-arg "PENSTOCK_COMMIT=$commit"
    [ -z "${BUILDER:-}" ] || set -- "$@" --build-arg "BUILDER=$BUILDER"
    $engine build "$@" --target build --tag "$tag-build" --file config/container/Dockerfile .
    version=$($engine run --rm "$tag-build" /image/usr/local/bin/penstock version)
    context=.
fi

field() { printf '%s\n' "$version" | sed -n "s/^$1 *//p"; }
$engine build "$@" --tag "$tag" --file config/container/Dockerfile \
    --label "org.opencontainers.image.title=penstock" \
    --label "org.opencontainers.image.description=WebRTC media forwarder whose datapath runs in XDP" \
    --label "org.opencontainers.image.licenses=MIT OR Apache-2.0" \
    --label "org.opencontainers.image.version=$(field penstock | cut -d' ' -f1)" \
    --label "org.opencontainers.image.revision=$(field commit)" \
    --label "penstock.build-id=$(field 'build id')" \
    --label "penstock.bpf-build-id=$(field 'BPF build id')" \
    "$context"
