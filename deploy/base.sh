#!/usr/bin/env bash
# Make a stand-in for the Dockerfile's Python image: deploy/base.sh [IMAGE]
#
# Where no registry of images can be reached, Debian's packages do: the same release of Debian and
# of Python, as an image of the same name. Needs root, buildah and debootstrap.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

image=${1:-$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)}
root=$(mktemp --directory)
trap 'rm -rf "$root"' EXIT

debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root"
# The image of that name has `python`.
ln -s python3 "$root/usr/bin/python"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

container=$(buildah from scratch)
buildah add --quiet "$container" "$root" /
buildah commit --quiet --rm "$container" "$image"
