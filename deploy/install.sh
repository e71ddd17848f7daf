#!/bin/sh
# Install what an image runs, in the stages of the Dockerfile that build it.
#
#   install.sh dependencies EXTRA ...   into /opt/rheostat, at the versions of constraints.txt
#   install.sh wheels FILE ...          what the wheels add to it, below /app
#
# The images have no pip: /opt/build has, and stays behind. PIP_ARGS are options of `pip install`.
set -eu

pip() {
    # shellcheck disable=SC2086  # several options
    /opt/build/bin/pip --python /opt/rheostat/bin/python --no-cache-dir "$@" ${PIP_ARGS-}
}

part=$1
shift
case $part in
dependencies)
    python3 -m venv --without-pip /opt/rheostat
    # Torch goes first and alone: its exact version decides which build everything else meets.
    pip install -c constraints.txt "$(grep '^torch==' constraints.txt)"
    python3 requirements.py "$@" >requirements.txt
    pip install -c constraints.txt -r requirements.txt
    # The tests of torch in C++, which are 130 MB.
    torch=$(echo /opt/rheostat/lib/python3.*/site-packages/torch)
    rm -rf "$torch/test"
    find "$torch/bin" -type f ! -name torch_shm_manager -delete
    ;;
wheels)
    pip install --no-deps --no-index --root /app "$@"
    ;;
esac
