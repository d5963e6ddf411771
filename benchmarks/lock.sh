#!/bin/bash
# Writes benchmarks/requirements_lock.txt from requirements.in; arguments go to uv (`--upgrade`).
set -euo pipefail
cd "$(dirname "$0")/.."
type -P uv >/dev/null || { echo "uv is not installed: pip install uv" >&2; exit 1; }
uv pip compile --quiet --generate-hashes --no-strip-extras --no-header --no-emit-index-url --no-emit-find-links \
  --python-version 3.13 --python-platform x86_64-manylinux_2_31 --constraints requirements_lock.txt \
  benchmarks/requirements.in -o benchmarks/requirements_lock.txt "$@"
