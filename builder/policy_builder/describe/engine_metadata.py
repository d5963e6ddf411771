"""The engine's own `.dist-info` in an image, so that tools which ask Python what is installed find it, and its licence.

A separate module because the engine gets into an image as files, by no installer that would write these (PEP 376,
PEP 639).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from policy_builder.describe.generate import LICENCE, TITLE
from policy_builder.validate.facts import Facts

SUMMARY = "Envoy ext_proc policy engine"


def engine_metadata(facts: Facts) -> dict[str, str]:
    """Return the files by their names below site-packages."""
    directory = f"{TITLE.replace('-', '_')}-{facts.engine_version}.dist-info"
    licence = facts.engine_licence.read_text(encoding="utf-8")
    lines = ["Metadata-Version: 2.4", f"Name: {TITLE}", f"Version: {facts.engine_version}", f"Summary: {SUMMARY}"]
    lines += [f"License-Expression: {LICENCE}", "License-File: LICENSE"]
    files = {f"{directory}/METADATA": "".join(f"{line}\n" for line in lines)}
    files[f"{directory}/INSTALLER"] = "policy-builder\n"
    files[f"{directory}/licenses/LICENSE"] = licence
    files[f"{directory}/RECORD"] = _record(facts.engine_files, files, directory)
    return files


def _record(engine: Mapping[str, Path], files: Mapping[str, str], directory: str) -> str:
    contents = {name: path.read_bytes() for name, path in engine.items()}
    contents |= {name: text.encode() for name, text in files.items()}
    rows = [f"{name},sha256={_digest(contents[name])},{len(contents[name])}\n" for name in sorted(contents)]
    return "".join([*rows, f"{directory}/RECORD,,\n"])


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
