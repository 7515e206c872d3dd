#!/bin/sh
# Writes the four lock files anew from setup/*.in. Give --upgrade to move to the newest versions that the .in files allow.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH

lock() {
    out=$1
    shift
    # One lock for every Python from 3.11 on, with hashes and without the address of any index.
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command setup/lock.sh --output-file "$out" "$@"
}

lock setup/wheels.lock setup/requirements-common.in setup/requirements-ros.in "$@"
# A distribution's rclpy is compiled against the distribution's numpy, so that one stays.
lock setup/distro.lock setup/requirements-common.in --no-emit-package numpy "$@"
# Only numpy of the main locks may be another one, and those have it.
lock setup/generalists.lock setup/requirements-generalists.in --override setup/overrides-generalists.in \
    --no-emit-package numpy --no-emit-package torch --no-emit-package sentence-transformers "$@"
lock setup/rig.lock setup/requirements-rig.in --no-deps "$@"
