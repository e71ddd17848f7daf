#!/usr/bin/env bash
# Build an image: deploy/build.sh cpu|gpu [IMAGE] [options of the build ...]
#
# With Docker where its engine answers, else with buildah, which needs none. What pip is told on
# this machine (index, certificate, folders of wheels), pip in the build is told too, as a secret;
# Docker cannot see the host's folders, so there they stay unused.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage="usage: deploy/build.sh cpu|gpu [IMAGE] [options of the build ...]"
target=${1:?$usage}
image=${2:-rheostat:$target}
options=("${@:3}")

configuration=$(mktemp)
trap 'rm -f "$configuration"' EXIT
# The environment, listed last, goes before the files.
{ python3 -m pip config list 2>/dev/null || true; } |
    sed -nE "s/^(global|install|:env:)\.([a-z-]+)='(.*)'$/\2 \3/p" |
    awk '{ key = $1; $1 = ""; value[key] = $0 }
        END { print "[global]"; for (key in value) print key " =" value[key] }' >"$configuration"

options+=(
    --target "$target"
    --tag "$image"
    --secret "id=pip,src=$configuration"
    --build-arg "PIP_ARGS=${PIP_ARGS-}"
    --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || true)"
)

if docker info >/dev/null 2>&1; then
    DOCKER_BUILDKIT=1 docker build "${options[@]}" .
else
    # An index of files has them beside its folder "simple".
    for path in $(grep -oE '(/[[:alnum:]._-]+){2,}' "$configuration" | sed 's|/simple$||' | sort -u); do
        [[ -e $path ]] && options+=(--volume "$path:$path:ro")
    done
    # Docker's format, since OCI's has no health checks.
    buildah build --isolation chroot --layers --format docker "${options[@]}" .
fi
