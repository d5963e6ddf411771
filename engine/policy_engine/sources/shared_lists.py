"""Named lists of chain entries that several routes use: `shared` at the top of a file, `- use: NAME` in a chain.

A separate module because engine and control plane put lists in alike, each entry with the place where it stands, so
that a mistake in it is reported there, once, however many routes use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from policy_engine.documents.diagnostics import Diagnostic, Rule, Severity
from policy_engine.documents.fields import Fields, did_you_mean
from policy_engine.documents.json_types import type_in_words
from policy_engine.documents.yaml_document import Document
from policy_engine.sdk.json_pointer import Path

SHARED = "shared"
"""The key of a file that holds lists by their names."""
USE = "use"
USE_KEYS = (USE,)

MAX_POLICIES = 200
"""Entries of one chain, with those of the lists that it uses."""
MAX_LISTS = 10_000
MAX_NESTING = 8
LONGEST_NAME = 128


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry of a chain stands."""

    document: Document
    path: Path

    def __str__(self) -> str:
        position = self.document.locate(self.path)
        return f"{self.document.file}:{position.line}" if position else self.document.file


@dataclass(slots=True)
class _List:
    place: Place
    items: Sequence[Any]
    used: bool = False
    entries: tuple[Place, ...] | None = None


@dataclass(slots=True)
class SharedLists:
    """The lists of one configuration, whatever files they are in; findings go to `diagnostics`."""

    diagnostics: list[Diagnostic]
    _lists: dict[str, _List] = field(default_factory=dict)

    def add(self, documents: Iterable[Document]) -> None:
        """Take the lists of these files. A name means one list in all of them."""
        for document in documents:
            value = document.value.get(SHARED) if isinstance(document.value, dict) else None
            if value is None:
                if isinstance(document.value, dict) and SHARED in document.value:
                    self._error(document, (SHARED,), "must be an object, not null (write {} for no lists)")
                continue
            if not isinstance(value, dict):
                self._error(document, (SHARED,), f"must be an object of lists by name, not {type_in_words(value)}")
                continue
            if len(self._lists) + len(value) > MAX_LISTS:
                self._error(document, (SHARED,), f"there are more than {MAX_LISTS} shared lists")
                continue
            for name, items in value.items():
                self._add(name, items, Place(document, (SHARED, name)))

    def _add(self, name: str, items: Any, place: Place) -> None:
        if not isinstance(items, list):
            self._error(place.document, place.path, f"must be a list of policies, not {type_in_words(items)}")
            items = []
        if not name.strip() or len(name) > LONGEST_NAME:
            reason = f"cannot name a shared list: from 1 to {LONGEST_NAME} characters"
            self._error(place.document, place.path, reason, key=True)
        known = self._lists.get(name)
        if known is not None:
            reason = f"the shared list {name!r} is already defined in {known.place}; a name means one list in all files"
            self._error(place.document, place.path, reason, key=True, rule=Rule.DUPLICATE_KEY)
            return
        self._lists[name] = _List(place, items)

    def places(self, document: Document, path: Path, items: Sequence[Any]) -> list[Place]:
        """Return where each entry of the list `items`, which stands at `path`, really stands, `use` followed."""
        found = list(self._follow(document, path, items, ()))
        if len(found) > MAX_POLICIES:
            reason = f"has more than {MAX_POLICIES} policies, with those of the shared lists that it uses"
            self._error(document, path, reason)
            return found[:MAX_POLICIES]
        return found

    def check_all(self) -> list[Place]:
        """Return the places of all entries of lists that nothing uses, and warn of each such list."""
        idle = {name: one for name, one in self._lists.items() if not one.used}
        found = [place for name, one in idle.items() for place in self._entries(name, one, ())]
        for name, one in idle.items():
            if not one.used:  # by another of them
                reason = f"no chain uses the shared list {name!r}"
                self.diagnostics.append(
                    one.place.document.diagnostic(
                        one.place.path, reason, key=True, severity=Severity.WARNING, rule=Rule.UNUSED_LIST
                    )
                )
        return found

    def _follow(self, document: Document, path: Path, items: Sequence[Any], within: tuple[str, ...]) -> Iterator[Place]:
        for index, item in enumerate(items):
            here = (*path, index)
            if isinstance(item, dict) and USE in item:
                yield from self._used(document, here, within)
            else:
                yield Place(document, here)

    def _used(self, document: Document, path: Path, within: tuple[str, ...]) -> tuple[Place, ...]:
        fields = Fields(document, path, USE_KEYS, self.diagnostics, "a use of a shared list")
        name = fields.text(USE, required=True, longest=LONGEST_NAME)
        if name is None:
            return ()
        one = self._lists.get(name)
        if one is None:
            allowed = ", ".join(sorted(self._lists)[:50]) or "none is defined"
            reason = f"there is no shared list {name!r}{did_you_mean(name, self._lists)}"
            fields.error((USE,), reason, allowed=allowed, rule=Rule.UNKNOWN_LIST)
            return ()
        one.used = True
        if name in within:
            way = " → ".join((*within[within.index(name) :], name))
            fields.error((USE,), f"the shared lists use each other in a circle: {way}", rule=Rule.UNKNOWN_LIST)
            return ()
        if len(within) >= MAX_NESTING:
            way = " → ".join((*within, name))
            fields.error((USE,), f"shared lists are nested more than {MAX_NESTING} deep: {way}", rule=Rule.UNKNOWN_LIST)
            return ()
        return self._entries(name, one, within)

    def _entries(self, name: str, one: _List, within: tuple[str, ...]) -> tuple[Place, ...]:
        if one.entries is None:
            found: list[Place] = []
            for place in self._follow(one.place.document, one.place.path, one.items, (*within, name)):
                found.append(place)
                if len(found) > MAX_POLICIES:  # whoever uses it has too many; lists in lists may have no end of them
                    break
            one.entries = tuple(found)
        return one.entries

    def _error(self, document: Document, path: Path, reason: str, **details: Any) -> None:
        self.diagnostics.append(document.diagnostic(path, reason, **details))
