"""Bodies made to be dear for whoever reads them, of any size, by content type."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

Make = Callable[[int], bytes]


def _repeated(text: str) -> Make:
    piece = text.encode()
    return lambda size: piece * (size // len(piece))


def _listed(item: str) -> Make:
    return lambda size: b"[" + b",".join([item.encode()] * (size // (len(item.encode()) + 1))) + b"]"


def _text_in_json(text: str) -> Make:
    piece = json.dumps(text, ensure_ascii=False)[1:-1].encode()
    return lambda size: b'{"k1":"' + piece * (size // len(piece)) + b'"}'


def _prompt(text: str) -> Make:
    piece = json.dumps(text, ensure_ascii=False)[1:-1].encode()
    return lambda size: b'{"messages":[{"role":"user","content":"' + piece * (size // len(piece)) + b'"}]}'


def _members(size: int) -> bytes:
    return b"{" + b",".join(b'"k%d":%d' % (number, number) for number in range(size // 15)) + b"}"


def _deep(size: int) -> bytes:
    """As many documents of 60 levels as fit, beside each other."""
    one = b"[" * 59 + b"1" + b"]" * 59
    return b"[" + b",".join([one] * (size // (len(one) + 1))) + b"]"


def _deepest(size: int) -> bytes:
    return b"[" * (size // 2) + b"]" * (size // 2)


JSON: dict[str, Make] = {
    "empty lists": _listed("[]"),
    "small objects": _listed('{"a":0}'),
    "nested objects": _listed('{"a":{"b":{"c":"d@e"}}}'),
    "integers": _listed("1"),
    "long integers": _listed("9" * 4000),
    "long fractions": _listed("0." + "3" * 4000),
    "exponents": _listed("1e-300"),
    "short texts": _listed('"a@b.cc"'),
    "escapes": _listed('"\\u0061\\ud83d\\ude00"'),
    "many members": _members,
    "deep": _deep,
    "deepest": _deepest,
    "one long text": _text_in_json("a"),
    "combining marks": _text_in_json("\u0301\u0316"),
    "one letter, many marks": lambda size: (
        b'{"k1":"a' + "\u0301".encode() * (size // 4) + "\u0316".encode() * (size // 4) + b'"}'
    ),
    "white space": lambda size: b"[" + b" " * size + b"]",
    "not closed": lambda size: b'["' + b"a" * size,
    "many alike": lambda size: json.dumps({"k1": ["aaaa"] * (size // 8)}).encode(),
    "prompt, near misses": _prompt("forbidden wor "),
    "prompt, many finds": _prompt("not bad "),
    "prompt, marks": _prompt("\u0301\u0316\u0323"),
    "prompt, wide letters": _prompt("\ufdfa"),
    "messages": lambda size: b'{"messages":[' + b",".join([b'{"role":"user","content":"a"}'] * (size // 30)) + b"]}",
    "choices": lambda size: b'{"choices":[' + b",".join([b'{"message":{"content":"bad"}}'] * (size // 30)) + b"]}",
}
TEXT: dict[str, Make] = {
    "letters": _repeated("a"),
    "lines": _repeated("\n"),
    "short lines": _repeated("1\n"),
    "near-miss emails": _repeated("a@"),
    "near-miss domains": _repeated("a@b."),
    "long locals": _repeated("a" * 63 + "@"),
    "emails": _repeated("a@b.cc "),
    "near-miss cards": _repeated("1 "),
    "cards": _repeated("4111 1111 1111 1111 "),
    "digits": _repeated("4"),
    "near-miss IBANs": _repeated("DE00 "),
    "spaced IBANs": _repeated("DE89 3 7 0 4 0 0 4 4 0 5 3 2 0 1 3 0 0 "),
    "colons": _repeated(":"),
    "near-miss IPv4": _repeated("1.1.1."),
    "near-miss IPv6": _repeated("a:"),
    "phones": _repeated("+1 234 567 8901 "),
    "near-miss pattern": _repeated("not not bad "),
    "marks": _repeated("\u0301\u0316"),
    "bytes that are no text": lambda size: b"\xff\xfe" * (size // 2),
}
EVENTS: dict[str, Make] = {
    "empty events": _repeated("data:\n\n"),
    "small events": _repeated('data: {"choices":[{"delta":{"content":"bad"}}]}\n\n'),
    "line without end": _repeated("data: a"),
    "line ends": _repeated("\r"),
    "comments": _repeated(":\n"),
    "many fields": _repeated("data: [\n"),
}


@dataclass(frozen=True)
class Kind:
    """Bodies of one content type, and how large they are sent at most."""

    content_type: str
    bodies: dict[str, Make]


KINDS = {
    "json": Kind("application/json", JSON),
    "text": Kind("text/plain; charset=utf-8", TEXT),
    "events": Kind("text/event-stream", EVENTS),
}
