#!/bin/bash
# Writes requirements_lock.txt from requirements.in; arguments go to uv (`--upgrade`, `--upgrade-package NAME`).
# The lock is for Python 3.11 and newer on every platform (--universal), with one version of each package
# (--fork-strategy): what only some need has a marker.
set -euo pipefail
cd "$(dirname "$0")/../.."
type -P uv >/dev/null || { echo "uv is not installed: pip install uv" >&2; exit 1; }
# --no-strip-extras: the lock names every extra that is used, so that each wheel's dependencies follow from its own line.
uv pip compile --quiet --generate-hashes --no-strip-extras --no-header --no-emit-index-url --no-emit-find-links \
  --universal --fork-strategy fewest --python-version 3.11 requirements.in -o requirements_lock.txt "$@"
