"""The chain file of a running engine, edited the way an operator's tools do: a new file renamed over the old one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from policy_engine.envoy.scalars import is_plain_text

Document = Mapping[str, Any]


class _Dumper(yaml.SafeDumper):
    """Quotes what PyYAML leaves plain and others take for a number, such as `1e3`."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if is_plain_text(text) else '"'
    ),
)


class ChainFile:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, document: Document) -> None:
        """Replace the content by `document` as YAML."""
        self.write_text(yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False))

    def write_text(self, text: str) -> None:
        """Replace the content by `text`, whatever it is."""
        new = self.path.with_name(f".{self.path.name}.new")
        new.write_text(text)
        new.chmod(0o644)  # the engine's user in a container is not the one who writes
        new.replace(self.path)


def chain(route_key: str, *policies: Document) -> Document:
    """Return a `routes` entry."""
    return {"route_key": route_key, "policies": list(policies)}


def policy(name: str, version: str, parameters: Document | None = None, **keys: Any) -> Document:
    """Return a `policies` entry; `keys` are `condition`, `failure_mode`, `timeout`, `enabled`."""
    return {"name": name, "version": version, **keys, **({"parameters": dict(parameters)} if parameters else {})}


def chains(*routes: Document) -> Document:
    """Return a whole chain file."""
    return {"version": "v1", "routes": list(routes)}
