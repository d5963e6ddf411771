"""Says what changed between two images: policies, engine, packages, settings of the container, files.

A separate module because it needs no key: it compares what two images hold and what their documents say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy_builder.attest.contents import Documents
from policy_builder.attest.image_store import Entry, Image
from policy_builder.recipe import POLICIES, SITE_PACKAGES

MOST_FILES = 20
"""Files that are named for one part of an image."""

_CONTAINER = ("Entrypoint", "Cmd", "User", "WorkingDir", "ExposedPorts", "Env")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two images, unpacked."""

    image: Image
    listing: Mapping[str, Entry]
    documents: Documents


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; `part` groups them (policy, engine, dependency …).

    `before` is empty for what is new, `after` for what is gone.
    """

    part: str
    name: str
    before: str
    after: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.before:
            line = f"+ {self.part} {self.name} {self.after}"
        elif not self.after:
            line = f"- {self.part} {self.name} {self.before}"
        else:
            line = f"~ {self.part} {self.name} {self.before} -> {self.after}"
        return "\n".join([" ".join(line.split(" ")).rstrip(), *(f"    {one}" for one in self.files)])

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "part": self.part,
            "name": self.name,
            "before": self.before,
            "after": self.after,
            "files": list(self.files),
        }


def changes(old: Side, new: Side) -> list[Change]:
    """Return everything that differs between two images, what matters most first; nothing when they are one."""
    found = [
        *_policies(old, new),
        *_compared("engine", _engine(old), _engine(new)),
        *_compared("library", _digests(old, "libraries"), _digests(new, "libraries")),
        *_compared("dependency", _versions(old, "dependencies"), _versions(new, "dependencies")),
        *_compared("Debian package", _debian(old), _debian(new)),
        *_compared("container", _container(old.image), _container(new.image)),
        *_compared("label", _labels(old.image), _labels(new.image)),
    ]
    files = _files(old, new, "", exclude=POLICIES.lstrip("/") + "/")
    if files:
        found.append(Change("files", "outside of the policies", str(len(files)), "changed", tuple(files[:MOST_FILES])))
    return found


def _policies(old: Side, new: Side) -> Iterator[Change]:
    before, after = old.documents.policies(), new.documents.policies()
    places = {
        f"{one.get('name')} {one.get('version')}": str(one.get("directory"))
        for one in (*old.documents.registry, *new.documents.registry)
    }
    for name in sorted({*before, *after}):
        files: list[str] = []
        if name in before and name in after:
            files = _files(old, new, f"{POLICIES.lstrip('/')}/{places[name]}/")
            if before[name] == after[name] and not files:
                continue
        yield Change("policy", name, before.get(name, ""), after.get(name, ""), tuple(files[:MOST_FILES]))


def _files(old: Side, new: Side, prefix: str, exclude: str = "\0") -> list[str]:
    """Return the files below `prefix` that differ, each with a sign: + new, - gone, ~ changed.

    Bytecode is left out: it follows its source.
    """
    found = []
    for path in sorted({*old.listing, *new.listing}):
        if not path.startswith(prefix) or path.startswith(exclude) or "/__pycache__/" in path:
            continue
        before, after = old.listing.get(path), new.listing.get(path)
        if before == after or "directory" in {one.kind for one in (before, after) if one is not None}:
            continue
        sign = "+" if before is None else "-" if after is None else "~"
        found.append(f"{sign} {_shown(path.removeprefix(prefix))}")
    return found


def _shown(path: str) -> str:
    site = SITE_PACKAGES.lstrip("/") + "/"
    return path.removeprefix(site) if path.startswith(site) else f"{path}"


def _compared(part: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield Change(part, name, before.get(name, ""), after.get(name, ""))


def _engine(side: Side) -> dict[str, str]:
    engine = side.documents.information.get("engine")
    if not isinstance(engine, dict):
        return {}
    return {"version": str(engine.get("version")), "digest": str(engine.get("digest"))}


def _digests(side: Side, key: str) -> dict[str, str]:
    return {str(one.get("name")): str(one.get("digest")) for one in _listed(side, key)}


def _versions(side: Side, key: str) -> dict[str, str]:
    return {str(one.get("name")): str(one.get("version")) for one in _listed(side, key)}


def _listed(side: Side, key: str) -> list[dict[str, Any]]:
    value = side.documents.information.get(key)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _debian(side: Side) -> dict[str, str]:
    debian = side.documents.information.get("debian")
    packages = debian.get("packages") if isinstance(debian, dict) else None
    return {str(key): str(value) for key, value in packages.items()} if isinstance(packages, dict) else {}


def _container(image: Image) -> dict[str, str]:
    config = image.config.get("config")
    if not isinstance(config, dict):
        return {}
    found = {key: str(config[key]) for key in _CONTAINER if key in config and key != "Env"}
    return found | {f"Env {key}": value for key, _, value in (str(one).partition("=") for one in config.get("Env", ()))}


def _labels(image: Image) -> dict[str, str]:
    return {key: value for key, value in image.labels.items() if not key.startswith("policy-engine.policy.")}
