"""HTTP header maps as policies see them; a separate module because trailers, requests and responses share it.

A map is decoded only when somebody looks: most policies never read a header, and decoding one request's
headers costs more than running the policy (see `docs/` on measurements).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

HeaderValue = str | bytes
HeaderPairs = Iterable[tuple[str, bytes]]


def encode_value(value: HeaderValue) -> bytes:
    """Return the wire form of a header value; text is UTF-8, undecodable bytes survive the round trip."""
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def decode_value(raw: bytes) -> str:
    """Return the text of a raw header value; bytes that are not UTF-8 become surrogates (lossless)."""
    return raw.decode("utf-8", "surrogateescape")


class HeaderChange(Protocol):
    """What the header part of every mutation looks like; applied as remove, set, append."""

    @property
    def set_headers(self) -> Mapping[str, HeaderValue]:
        """Headers that replace every value of that name."""
        ...

    @property
    def append_headers(self) -> Sequence[tuple[str, HeaderValue]]:
        """Headers added beside values that are there."""
        ...

    @property
    def remove_headers(self) -> Sequence[str]:
        """Names of headers to drop."""
        ...

    def pseudo_headers(self) -> Mapping[str, str]:
        """Pseudo-headers (`:path`, `:status`, …) that the change sets."""
        ...


@dataclass(slots=True, eq=False)
class HeaderEdit:
    """A change made ready once for all that follows: names in lower case, values as bytes, pseudo-headers last.

    `changed` holds `(name, value, append)` in the order they apply, after the names in `removed` are gone. `whole`
    tells that its action asks for nothing but this; `wire` is where the engine keeps the bytes it sends for it, `shape`
    what it knows of the names.
    """

    removed: tuple[str, ...] = ()
    changed: tuple[tuple[str, bytes, bool], ...] = ()
    whole: bool = False
    wire: bytes | None = None
    shape: tuple[tuple[str, ...], ...] | None = None


NO_EDIT = HeaderEdit()


def edit_of(change: HeaderChange) -> HeaderEdit:
    """Return the edit that `change` stands for, unchecked."""
    changed = [(name.lower(), encode_value(value), False) for name, value in change.set_headers.items()]
    changed += [(name.lower(), encode_value(value), True) for name, value in change.append_headers]
    changed += [(name, encode_value(text), False) for name, text in change.pseudo_headers().items()]
    return HeaderEdit(tuple(name.lower() for name in change.remove_headers), tuple(changed))


Index = dict[str, list[bytes]]
"""The values of each header by its lower-case name."""


def _index_of(pairs: HeaderPairs) -> Index:
    index: Index = {}
    for name, raw in pairs:
        index.setdefault(name.lower(), []).append(raw)
    return index


class Headers:
    """A read-only, case-insensitive, ordered view of a header map.

    Names are lower case, as HTTP/2 has them (RFC 9113, 8.2). Pseudo-headers (`:path`, …) can be looked up but
    are left out of iteration. The engine applies the changes of earlier policies before a later one looks (R-05).
    """

    __slots__ = ("_index", "_load", "_pending")

    def __init__(self, pairs: HeaderPairs = ()) -> None:
        self._load: Callable[[], Index] = lambda: _index_of(pairs)
        self._index: Index | None = None
        self._pending: list[HeaderEdit] = []

    @classmethod
    def lazy(cls, load: Callable[[], Index]) -> Headers:
        """Build a map for the engine that calls `load` when somebody looks; it gets to own what `load` returns."""
        headers = cls.__new__(cls)
        headers._load = load
        headers._index = None
        headers._pending = []
        return headers

    @classmethod
    def of(cls, values: Mapping[str, HeaderValue | Iterable[HeaderValue]]) -> Headers:
        """Build a map from plain Python values; a list or tuple gives a header several values."""
        pairs: list[tuple[str, bytes]] = []
        for name, value in values.items():
            many = [value] if isinstance(value, str | bytes) else value
            pairs.extend((name, encode_value(one)) for one in many)
        return cls(pairs)

    def _ready(self) -> Index:
        index = self._index
        if index is None:
            index = self._load()
            for edit in self._pending:
                _apply(index, edit)
            self._pending.clear()
            self._index = index
        return index

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of header `name`, or `default` when it is absent."""
        values = self._ready().get(name.lower())
        return decode_value(values[0]) if values else default

    def get_all(self, name: str) -> tuple[str, ...]:
        """Return every value of header `name`, in order; empty when it is absent."""
        return tuple(decode_value(raw) for raw in self._ready().get(name.lower(), ()))

    def get_bytes(self, name: str) -> bytes | None:
        """Return the first value of header `name` exactly as it came, for binary values."""
        values = self._ready().get(name.lower())
        return values[0] if values else None

    def __getitem__(self, name: str) -> str:
        """Return the first value of header `name`; raises KeyError when it is absent."""
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._ready()

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._ready() if not name.startswith(":"))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield `(name, value)` for every value of every header but the pseudo-headers."""
        for name, values in self._ready().items():
            if not name.startswith(":"):
                for raw in values:
                    yield name, decode_value(raw)

    def raw_items(self) -> Iterator[tuple[str, bytes]]:
        """Yield `(name, value)` for every value of every header exactly as it came, pseudo-headers included."""
        return ((name, raw) for name, values in self._ready().items() for raw in values)

    def copy(self) -> Headers:
        """Return an independent map with the same content, pseudo-headers included."""
        return Headers(list(self.raw_items()))

    def __repr__(self) -> str:
        # Names only: values may be credentials, and a repr ends up in logs and tracebacks.
        return f"Headers({sorted(self._ready())})"


def apply_edit(headers: Headers, edit: HeaderEdit) -> None:
    """Apply one policy's header changes to the view that later policies read (R-05).

    For the engine and the test kit; policies return a mutation instead of changing a view. Nothing is computed
    until somebody looks.
    """
    if headers._index is None:
        headers._pending.append(edit)
    else:
        _apply(headers._index, edit)


def _apply(index: Index, edit: HeaderEdit) -> None:
    for name in edit.removed:
        index.pop(name, None)
    for name, raw, append in edit.changed:
        if append and name in index:
            index[name].append(raw)
        else:
            index[name] = [raw]
