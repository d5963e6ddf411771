"""Header mutations and headers replies as bytes, written by hand: the messages that every request needs a new one of.

The rest of a reply is made with the generated classes (`kernel.reply`). These few are not, because building one header
with them costs 1.5 µs and joining bytes a fifth of that; a property test holds both to the same result.
Field numbers are those of envoy/service/ext_proc/v3/external_processor.proto and envoy/config/core/v3/base.proto;
fields of a message may come in any order and in pieces (protobuf encoding, "Last One Wins").
"""

from __future__ import annotations

from collections.abc import Sequence

from policy_engine.sdk.headers import HeaderEdit

# HeaderValueOption: append_action = OVERWRITE_IF_EXISTS_OR_ADD, or append = true, which Envoy reads beside action 0.
_OVERWRITE = b"\x18\x02"
_APPEND = b"\x12\x02\x08\x01"

_PREFIXES: dict[tuple[str, int, bool], tuple[bytes, bytes]] = {}
_MOST_PREFIXES = 4096

_ONE_BYTE = [bytes((size,)) for size in range(0x80)]


def length(size: int) -> bytes:
    """Return `size` as a varint."""
    if size < 0x80:
        return _ONE_BYTE[size]
    parts = bytearray()
    while size >= 0x80:
        parts.append(size & 0x7F | 0x80)
        size >>= 7
    parts.append(size)
    return bytes(parts)


def header_mutation(edits: Sequence[HeaderEdit]) -> bytes:
    """Return the `HeaderMutation` that applies `edits` in their order; the last writer of a header wins.

    Envoy removes everything in `remove_headers` first and then sets in order, so that edits can be strung together
    unless two of them are about one header.
    """
    if len(edits) > 1 and _overlap(edits):
        return _wire(_folded(edits))
    return b"".join([_wire(edit) if edit.wire is None else edit.wire for edit in edits])


def headers_reply(tag: bytes, common: bytes) -> bytes:
    """Return a `ProcessingResponse` whose field `tag` is a `HeadersResponse` with this `CommonResponse`."""
    response = b"\x0a" + length(len(common)) + common
    return tag + length(len(response)) + response


def immediate_response(status: int, mutation: bytes, body: bytes, grpc_status: int | None, details: str) -> bytes:
    """Return a `ProcessingResponse` whose `immediate_response` is this answer; `mutation` is a `HeaderMutation`."""
    code = b"\x08" + length(status)
    parts = [b"\x0a", length(len(code)), code]
    if mutation:
        parts += (b"\x12", length(len(mutation)), mutation)
    if body:
        parts += (b"\x1a", length(len(body)), body)
    if grpc_status is not None:
        parts += (b"\x22\x02\x08", length(grpc_status)) if grpc_status else (b"\x22\x00",)
    if details:
        text = details.encode()
        parts += (b"\x2a", length(len(text)), text)
    answer = b"".join(parts)
    return b"\x3a" + length(len(answer)) + answer


def mutation_field(mutation: bytes) -> bytes:
    """Return `CommonResponse.header_mutation`."""
    return b"\x12" + length(len(mutation)) + mutation


def _wire(edit: HeaderEdit) -> bytes:
    parts: list[bytes] = []
    for name in edit.removed:
        key = name.encode()
        parts += (b"\x12", length(len(key)), key)
    for name, value, append in edit.changed:
        known = _PREFIXES.get((name, len(value), append)) or _prefix(name, len(value), append)
        parts += (known[0], value, known[1])
    wire = edit.wire = b"".join(parts)
    return wire


def _prefix(name: str, size: int, append: bool) -> tuple[bytes, bytes]:
    """Return what stands before and after a value of `size` bytes in `HeaderMutation.set_headers`."""
    key = name.encode()
    header = b"\x0a" + length(len(key)) + key + b"\x1a" + length(size)
    tail = _APPEND if append else _OVERWRITE
    option = b"\x0a" + length(len(header) + size) + header
    made = b"\x0a" + length(len(option) + size + len(tail)) + option, tail
    if len(_PREFIXES) >= _MOST_PREFIXES:
        _PREFIXES.clear()
    _PREFIXES[name, size, append] = made
    return made


def _overlap(edits: Sequence[HeaderEdit]) -> bool:
    names = [change[0] for edit in edits for change in edit.changed]
    distinct = set(names)
    if len(distinct) != len(names):
        return True
    for edit in edits:  # noqa: SIM110 # a generator costs twice as much
        if edit.removed and not distinct.isdisjoint(edit.removed):
            return True
    return False


def _folded(edits: Sequence[HeaderEdit]) -> HeaderEdit:
    removed: dict[str, None] = {}
    changed: dict[str, list[tuple[str, bytes, bool]]] = {}
    for edit in edits:
        for name in edit.removed:
            changed.pop(name, None)
            removed[name] = None
        for one in edit.changed:
            if one[2]:
                changed.setdefault(one[0], []).append(one)
            else:
                changed[one[0]] = [one]
    return HeaderEdit(tuple(removed), tuple([one for many in changed.values() for one in many]))
