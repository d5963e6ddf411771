#!/bin/bash
# Formats and lints all BUILD and .bzl files: `tools/buildifier.sh`; `tools/buildifier.sh check` changes nothing and
# fails when something is not as it should be. Needs buildifier, or Go to build it; neither is in bazelw's system, so in
# `bazel test //...` is only what can be told without it: //:starlark.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v0.0.0-20260904073137-eaa4d125b423
if type -P buildifier >/dev/null; then
  buildifier=(buildifier)
elif type -P go >/dev/null; then
  buildifier=(go run "github.com/bazelbuild/buildtools/buildifier@$version")
else
  echo "neither buildifier nor go is installed" >&2
  exit 1
fi
mode=(-mode=fix -lint=fix)
[ "${1:-}" = check ] && mode=(-mode=check -lint=warn)
git ls-files -z '*.bazel' '*.bzl' | xargs -0 "${buildifier[@]}" "${mode[@]}"
