"""Takes out of compiled files what no process reads: symbol tables and debugging data, the same bytes on every machine.

A separate module because layers are written with it and the SBOM describes them with it. It does what `strip` does, but
depends on no version of a tool: what is loaded stays byte for byte, and only the section table behind it is written
anew (System V ABI, chapter 4; ELF-64 Object File Format). Standard library only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_ALLOC = 2  # SHF_ALLOC: part of what is loaded
_NOBITS = 8
_SYMTAB = 2
_STRTAB = 3
_NAMES = b".shstrtab"
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class _Section:
    name: bytes
    kind: int
    flags: int
    offset: int
    size: int
    row: tuple[int, ...]


def stripped(content: bytes) -> bytes:
    """Return a compiled file without symbols and debugging data; anything else, and what has none of them, as it is."""
    if not content.startswith(_MAGIC):
        return content
    try:
        header = _HEADER.unpack_from(content)
        sections = _sections(content, header)
        end = max(
            [_HEADER.size, *(one.offset + one.size for one in sections if one.flags & _ALLOC and one.kind != _NOBITS)]
            + [offset + size for offset, size in _segments(content, header)]
        )
    except (struct.error, ValueError, IndexError, OverflowError):
        return content
    unused = [one for one in sections if one.kind == _SYMTAB or one.name.startswith((b".debug_", b".zdebug_"))]
    if not unused or end > len(content):
        return content
    return _written(content[:end], header, sections)


def _sections(content: bytes, header: tuple[int, ...]) -> list[_Section]:
    start, size, count, names_at = header[6], header[11], header[12], header[13]
    if not start or size != _SECTION.size or not count:
        raise ValueError("no section table")
    rows = [_SECTION.unpack_from(content, start + number * size) for number in range(count)]
    names = content[rows[names_at][4] : rows[names_at][4] + rows[names_at][5]]
    return [_Section(names[row[0] : names.index(b"\0", row[0])], row[1], row[2], row[4], row[5], row) for row in rows]


def _segments(content: bytes, header: tuple[int, ...]) -> list[tuple[int, int]]:
    start, size, count = header[5], header[9], header[10]
    if size != _SEGMENT.size:
        raise ValueError("no program headers")
    rows = [_SEGMENT.unpack_from(content, start + number * size) for number in range(count)]
    return [(row[2], row[5]) for row in rows]


def _written(loaded: bytes, header: tuple[int, ...], sections: list[_Section]) -> bytes:
    """Return `loaded` with a table of the sections in it; they keep their numbers, since symbols refer to those."""
    last = max((number for number, one in enumerate(sections) if one.flags & _ALLOC), default=0)
    names = b"\0"
    rows: list[tuple[int, ...]] = []
    for number, one in enumerate(sections[: last + 1]):
        if number and not one.flags & _ALLOC:
            rows.append((0,) * 10)
            continue
        row = list(one.row)
        row[0] = len(names) if one.name else 0
        names += one.name + b"\0" if one.name else b""
        if row[6] > last:
            row[6] = 0
        rows.append(tuple(row))
    name = len(names)
    names += _NAMES + b"\0"
    names_start = len(loaded)
    rows.append((name, _STRTAB, 0, 0, names_start, len(names), 0, 0, 1, 0))
    table = loaded + names
    table += b"\0" * (-len(table) % _ALIGNMENT)
    fields = list(header)
    fields[6], fields[12], fields[13] = len(table), len(rows), len(rows) - 1
    return _HEADER.pack(*fields) + table[_HEADER.size :] + b"".join(_SECTION.pack(*row) for row in rows)
