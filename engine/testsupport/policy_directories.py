"""Writes policies to disk for tests that load them as an engine does."""

from __future__ import annotations

from pathlib import Path

MANIFEST = """\
name: {name}
version: {version}
description: A policy of a test.
entrypoint: policy:Tested
phases: [request_headers]
parameters:
  type: object
  additionalProperties: false
  properties:
    header: {{type: string, default: x-tested}}
    count: {{type: integer, minimum: 1}}
    url: {{type: string, format: uri}}
    key: {{type: string, minLength: 4}}
    refused: {{type: string}}
examples:
  - description: The shortest.
    parameters: {{}}
"""

CODE = """\
from policy_engine.sdk import ParameterError, Policy

CREATED = []


class Tested(Policy):
    VERSION = "{version}"

    def __init__(self, parameters):
        CREATED.append(dict(parameters))
        if "refused" in parameters:
            raise ParameterError(f"cannot use {{parameters['refused']}}", "/refused")

    def on_request_headers(self, request):
        return None
"""


def write_policy(
    root: Path, name: str = "tested", version: str = "v1.0.0", *, manifest: str = MANIFEST, code: str = CODE
) -> Path:
    """Write `root/<name>/<v1_0_0>/` and return it."""
    directory = root / name / version.replace(".", "_")
    directory.mkdir(parents=True)
    (directory / "policy.yaml").write_text(manifest.format(name=name, version=version))
    (directory / "policy.py").write_text(code.format(version=version))
    return directory
