"""What is imported before worker processes are forked, so that all of them share it: what the chain files need."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

from policy_engine.sources.chain_file import read_chain_files
from policy_engine.worker.conditions.condition import cel_engine
from policy_engine.worker.conditions.direct import compile_direct
from policy_engine.worker.conditions.source import read_source
from policy_engine.worker.policies.registry import Registry

_CONDITION = re.compile(r"""\bcondition["']?: *(.*?),?$""", re.MULTILINE)
_VERSION = re.compile(r"\bv\d+(?:\.\d+\.\d+)?\b", re.ASCII)


def import_for(registry: Registry, chains: Path) -> None:
    """Load the policies that the files at `chains` name, and CEL if they have conditions that need it.

    Nothing is read of them but words, wherever they stand: what is loaded in vain does no harm, and what is missed is
    loaded when the chains are read, as is what they name later.
    """
    text = b"\n".join(read_chain_files((chains,)).contents.values()).decode(errors="replace")
    versions = set(_VERSION.findall(text))
    for name in registry.names():
        for version in versions if name in text else ():
            # What is wrong with one is told when the chains are read.
            with suppress(LookupError):
                registry.resolve(name, version)
    if not all(map(_is_direct, _CONDITION.findall(text))):
        cel_engine()


def _is_direct(written: str) -> bool:
    """Whether a condition, as it stands in a file, surely needs no CEL engine."""
    if written.startswith('"'):
        with suppress(ValueError):
            written, _ = json.JSONDecoder().raw_decode(written)
    source = read_source(written.strip("'"))
    return not source.problems and compile_direct(source) is not None
