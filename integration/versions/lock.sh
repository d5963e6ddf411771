#!/bin/bash
# Writes requirements_lock.txt of this directory from requirements.in, for every platform that has wheels of it.
set -euo pipefail
cd "$(dirname "$0")"
type -P uv >/dev/null || { echo "uv is not installed: pip install uv" >&2; exit 1; }
uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
  --universal --python-version 3.11 requirements.in -o requirements_lock.txt
