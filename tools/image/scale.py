#!/usr/bin/env python3
"""Measures an image of 20 generated policies with requirements of their own, by Bazel (R-45): `tools/image/scale.py`.

Three builds of one target, in seconds: all of it, nothing changed, one line of one policy changed; and the sizes of all
layers before and after, with a star where the change made a new one. The engine's layers come from the cache, as for
someone who adds policies to a checkout that has built an image before. What it generates lies in `scale_measurement/`
and is removed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).absolute().parent.parent.parent
DIRECTORY = CHECKOUT / "scale_measurement"
MODULES = {
    "annotated-types": "annotated_types", "boolean-py": "boolean", "cel-python": "celpy", "defusedxml": "defusedxml",
    "deprecated": "deprecated", "h11": "h11", "h2": "h2", "iniconfig": "iniconfig", "jmespath": "jmespath",
    "lark": "lark", "license-expression": "license_expression", "limits": "limits", "packaging": "packaging",
    "pathspec": "pathspec", "pendulum": "pendulum", "pydantic": "pydantic", "pygments": "pygments", "redis": "redis",
    "sortedcontainers": "sortedcontainers", "wrapt": "wrapt",
}  # fmt: skip
"""Distributions of the lock that the engine does not need, and a module of each: one for each policy."""

POLICY_YAML = """name: scale-{number}
version: v1.0.0
description: Generated to measure.
entrypoint: policy:Example
phases:
  - request_headers
parameters:
  type: object
"""
CODE = """import {module}
from policy_engine.sdk import Policy, Request, RequestMutation


class Example(Policy):
    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(set_headers={{"x-scale-{number}": {module}.__name__}})
"""
BUILD = """load("//builder:defs.bzl", "policy")

policy(
    name = "scale-{number}",
    version = "v1.0.0",
    visibility = ["//scale_measurement:__pkg__"],
    deps = ["@pypi//{label}"],
)
"""
IMAGE = """load("//builder:defs.bzl", "policy_image")

policy_image(
    name = "image",
    policies = {policies},
)
"""


def generate() -> None:
    """Write the policies and an image of them."""
    lock = (CHECKOUT / "requirements_lock.txt").read_text()
    for number, (name, module) in enumerate(MODULES.items()):
        (version,) = re.findall(rf"^{re.escape(name)}==(\S+)", lock, re.MULTILINE)
        policy = DIRECTORY / f"scale-{number}/v1_0_0"
        policy.mkdir(parents=True)
        label = name.replace("-", "_")
        (policy / "policy.yaml").write_text(POLICY_YAML.format(number=number))
        (policy / "policy.py").write_text(CODE.format(number=number, module=module))
        (policy / "policy_test.py").write_text("")
        (policy / "README.md").write_text(f"# scale-{number}\n")
        (policy / "requirements.txt").write_text(f"{name}=={version}\n")
        (policy / "BUILD.bazel").write_text(BUILD.format(number=number, label=label))
    policies = [f"//scale_measurement/scale-{number}/v1_0_0" for number in range(len(MODULES))]
    (DIRECTORY / "BUILD.bazel").write_text(IMAGE.format(policies=json.dumps(policies)))


def build() -> float:
    """Build the image; return the seconds that took."""
    begin = time.monotonic()
    command = [str(CHECKOUT / "bazelw"), "build", "//scale_measurement:image.oci"]
    subprocess.run(command, check=True, cwd=CHECKOUT, stderr=subprocess.PIPE)
    return time.monotonic() - begin


def layers() -> dict[str, tuple[str, int]]:
    """Return digest and size of each layer of the image by its name."""
    layout = CHECKOUT / "bazel-bin/scale_measurement/image.oci"

    def read(digest: str) -> Any:
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())

    (top,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = read(top["digest"])
    names = [one["created_by"].removesuffix(".tar") for one in read(manifest["config"]["digest"])["history"]]
    return {name: (one["digest"], one["size"]) for name, one in zip(names, manifest["layers"], strict=True)}


def main() -> int:
    """Measure and print; returns the exit status."""
    if DIRECTORY.exists():
        print(f"{DIRECTORY} is there already: another measurement, or what a killed one left", file=sys.stderr)
        return 1
    try:
        subprocess.run(
            [str(CHECKOUT / "bazelw"), "build", "//:image.oci"], check=True, cwd=CHECKOUT, stderr=subprocess.DEVNULL
        )
        generate()
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{len(MODULES)} policies: {build():.1f} s")
        print(f"nothing changed: {build():.1f} s")
        before = layers()
        with (DIRECTORY / "scale-7/v1_0_0/policy.py").open("a") as file:
            file.write("# one changed line\n")
        print(f"one line of one policy changed: {build():.1f} s; load {os.getloadavg()[0]:.1f}")
        for name, (digest, size) in layers().items():
            print(f"{before[name][1] / 1e6:9.2f} MB {size / 1e6:9.2f} MB  {name}{' *' * (digest != before[name][0])}")
    finally:
        shutil.rmtree(DIRECTORY, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
