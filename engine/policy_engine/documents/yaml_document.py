"""YAML taken from outside, with the place of every key and value, by the YAML 1.2 core schema.

A separate module because a loader for configuration has to be stricter than a YAML library: duplicate keys, aliases
that explode, tags, deep nesting, YAML 1.1's `on` and `0123`. Values are plain JSON data when it is done.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from policy_engine.documents.diagnostics import Diagnostic, Findings, Rule, TooManyFindings
from policy_engine.documents.plain_file import read_plain_file
from policy_engine.documents.redaction import sounds_secret
from policy_engine.sdk.json_pointer import Path, find, format_pointer, path_within

MAX_BYTES = 16 << 20
MAX_NODES = 1_000_000
"""Most keys and values of one file, aliases counted as often as they are used."""
MAX_DEPTH = 64
MAX_INTEGER = 2**63

_Mark = tuple[int, int, Any]  # line, column, children: {key: (line, column, _Mark)} or [_Mark]; tuples are the cheapest

_STRING_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str"})
_NOT_PLAIN_TEXT = frozenset("0123456789+-.~nNtTfF")
_CONSTANTS: dict[str, Any] = {"": None, "~": None}
_CONSTANTS |= dict.fromkeys(("null", "Null", "NULL"))
_CONSTANTS |= dict.fromkeys(("true", "True", "TRUE"), True)
_CONSTANTS |= dict.fromkeys(("false", "False", "FALSE"), False)
_INTEGER = re.compile(r"[-+]?\d+", re.ASCII)
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file; both count from 1."""

    line: int
    column: int


class Document:
    """A parsed file: `value` is plain data (dict with text keys, list, str, int, float, bool, None)."""

    __slots__ = ("_mark", "file", "value")

    def __init__(self, file: str, value: Any, mark: _Mark | None = None) -> None:
        self.file = file
        self.value = value
        self._mark = mark

    def locate(self, path: Path, *, key: bool = False) -> Position | None:
        """Return the place of the value at `path`, or of its key; of the nearest parent where it does not exist.

        None for a document that was not read from text.
        """
        mark = self._mark
        if mark is None:
            return None
        place = mark
        for depth, token in enumerate(path):
            children = mark[2]
            if isinstance(children, dict) and token in children:
                place = children[token]
                mark = place[2]
            elif isinstance(children, list) and isinstance(token, int) and 0 <= token < len(children):
                place = mark = children[token]
            else:
                break
            if depth < len(path) - 1 or not key:
                place = mark
        return Position(place[0] + 1, place[1] + 1)

    def diagnostic(self, path: Path, reason: str, *, key: bool = False, **details: Any) -> Diagnostic:
        """Return a finding about the value (or the key) at `path`; `details` are further fields of Diagnostic."""
        place = self.locate(path, key=key)
        line, column = (place.line, place.column) if place else (None, None)
        pointer = format_pointer(path)
        return Diagnostic(self.file, reason, line, column, pointer, route=self.route(path), **details)

    def route(self, path: Path) -> str:
        """Return the key, or the name, of the innermost route that `path` leads into; empty when there is none."""
        value, found, last = self.value, "", None
        for token in path:
            if isinstance(value, dict) and isinstance(token, str):
                value = value.get(token)
            elif isinstance(value, list) and isinstance(token, int) and 0 <= token < len(value):
                value = value[token]
                if last == "routes" and isinstance(value, dict):
                    key = value.get("route_key", value.get("name"))
                    found = key if isinstance(key, str) else ""
            else:
                break
            last = token
        return found

    def mend_key(self, path: Path, wrong: str, meant: str) -> None:
        """Let the object at `path` have `meant` besides the misspelt `wrong`, to find what is wrong below it."""
        value = find(self.value, path)
        value[meant] = value[wrong]
        mark = self._mark
        for token in path:
            children = mark[2] if mark is not None else None
            if children is None:  # not read from text, or inside an alias, whose place is the alias
                return
            mark = children[token][2] if isinstance(token, str) else children[token]
        if mark is not None and mark[2] is not None:
            mark[2][meant] = mark[2][wrong]


def read_document_file(path: FilePath, what: str = "", hint: str = "") -> tuple[Document | None, list[Diagnostic]]:
    """Read the file `path` as `read_document` reads its content, whatever it turns out to be.

    Why it cannot be read is told of `what` (`the settings file`), and followed by `hint`.
    """
    try:
        content = read_plain_file(path, MAX_BYTES)
    except OSError as error:
        reason = f"{what} cannot be read: {error.strerror or error}{hint}".lstrip()
        return None, [Diagnostic(str(path), reason, rule=Rule.UNREADABLE)]
    return read_document(str(path), content)


def read_document(file: str, content: bytes) -> tuple[Document | None, list[Diagnostic]]:
    """Return the document in `content` with everything wrong with it; None when it could not be read to its end.

    `file` is only named in diagnostics. A document that comes with errors is still whole enough to be checked further.
    """
    composer = _Composer(file)
    try:
        document = composer.read(content)
    except (_Stop, TooManyFindings):
        return None, composer.diagnostics
    found: list[Diagnostic] = Findings()
    found.extend(
        replace(one, route=document.route(path_within(document.value, one.path))) for one in composer.diagnostics
    )
    return document, found


class _Stop(Exception):
    """Nothing after this place can be read."""


@dataclass(slots=True)
class _Frame:
    """A mapping or list that has begun and not ended."""

    value: Any
    line: int
    column: int
    children: Any
    anchor: str | None
    path: Path
    nodes: int = 1
    height: int = 0
    key: str | None = None
    key_place: tuple[int, int] = (0, 0)
    expects_key: bool = True
    drop_value: bool = False


@dataclass(frozen=True, slots=True)
class _Anchored:
    value: Any
    mark: _Mark
    nodes: int
    height: int


@dataclass(slots=True)
class _Composer:
    """Builds a document from the parser's events, without recursion, counting as it goes."""

    file: str
    diagnostics: Findings = field(default_factory=Findings)
    frames: list[_Frame] = field(default_factory=list)
    anchors: dict[str, _Anchored] = field(default_factory=dict)
    nodes: int = 0
    root: tuple[Any, _Mark] | None = None

    def read(self, content: bytes) -> Document:
        text = self._decode(content)
        loader = yaml.CSafeLoader(text)
        try:
            self._consume(loader)
        except yaml.YAMLError as error:
            self._syntax_error(error, text)
            raise _Stop from None
        finally:
            loader.dispose()
        value, mark = self.root or (None, (0, 0, None))
        return Document(self.file, value, mark)

    def _decode(self, content: bytes) -> str:
        if len(content) > MAX_BYTES:
            self._stop(0, 0, f"the file is larger than {MAX_BYTES >> 20} MiB")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = content[: error.start]
            self._stop(before.count(b"\n"), error.start - before.rfind(b"\n") - 1, "the file is not UTF-8 text")

    def _consume(self, loader: Any) -> None:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, ScalarEvent):
                self._scalar(event)
            elif isinstance(event, MappingStartEvent | SequenceStartEvent):
                self._start(event)
            elif isinstance(event, MappingEndEvent | SequenceEndEvent):
                self._end()
            elif isinstance(event, AliasEvent):
                self._alias(event)
            elif isinstance(event, DocumentStartEvent) and self.root is not None:
                mark: Any = event.start_mark
                self._stop(mark.line, mark.column, "the file holds more than one document (`---`)")

    def _scalar(self, event: Any) -> None:
        mark = event.start_mark
        value: Any = event.value
        if event.tag is None:
            if not event.style and (not value or value[0] in _NOT_PLAIN_TEXT):
                value = self._resolve(value, mark)
        elif event.tag not in _STRING_TAGS:
            self._refuse_tag(event)
        frame = self.frames[-1] if self.frames else None
        if frame is not None and frame.expects_key:
            self._key(frame, value, event)
            return
        placed: _Mark = (mark.line, mark.column, None)
        if event.anchor:
            self.anchors[event.anchor] = _Anchored(value, placed, 1, 0)
        self._place(value, placed, 1, 0)

    def _key(self, frame: _Frame, value: Any, event: Any) -> None:
        mark = event.start_mark
        name: str = value if isinstance(value, str) else event.value
        if event.anchor:
            self.anchors[event.anchor] = _Anchored(value, (mark.line, mark.column, None), 1, 0)
        if not isinstance(value, str):
            self._error(mark, "a key must be text; quote it", value=name, rule=Rule.WRONG_TYPE)
        elif name == "<<" and not event.style:
            self._error(mark, "merge keys (<<) are not supported; repeat the keys or use an alias for the whole value")
        self._name_value(frame, name, (mark.line, mark.column))

    def _name_value(self, frame: _Frame, name: str, place: tuple[int, int]) -> None:
        first = frame.children.get(name)
        if first is not None:
            self.diagnostics.append(
                Diagnostic(
                    self.file,
                    f"the key {name!r} is here for the second time; the first is in line {first[0] + 1}",
                    place[0] + 1,
                    place[1] + 1,
                    format_pointer((*frame.path, name)),
                    rule=Rule.DUPLICATE_KEY,
                )
            )
        frame.key, frame.key_place = name, place
        frame.drop_value = first is not None
        frame.expects_key = False

    def _start(self, event: Any) -> None:
        mark = event.start_mark
        if event.tag not in (None, "!"):
            self._refuse_tag(event)
        path: Path = ()
        if self.frames:
            parent = self.frames[-1]
            if parent.expects_key:
                self._error(mark, "a key must be text, not a list or an object", rule=Rule.WRONG_TYPE)
            token = len(parent.value) if isinstance(parent.value, list) else (parent.key or "")
            path = (*parent.path, token)
        if len(self.frames) >= MAX_DEPTH:
            self._stop(mark.line, mark.column, f"the file is nested more than {MAX_DEPTH} levels deep")
        is_mapping = isinstance(event, MappingStartEvent)
        value: Any = {} if is_mapping else []
        children: Any = {} if is_mapping else []
        self.frames.append(_Frame(value, mark.line, mark.column, children, event.anchor, path, expects_key=is_mapping))

    def _end(self) -> None:
        frame = self.frames.pop()
        mark: _Mark = (frame.line, frame.column, frame.children)
        if frame.anchor:
            self.anchors[frame.anchor] = _Anchored(frame.value, mark, frame.nodes, frame.height)
        parent = self.frames[-1] if self.frames else None
        if parent is not None and parent.expects_key:
            parent.key, parent.expects_key, parent.drop_value = None, False, True
            return
        self._place(frame.value, mark, frame.nodes, frame.height)

    def _alias(self, event: Any) -> None:
        mark = event.start_mark
        anchored = self.anchors.get(event.anchor)
        if anchored is None:
            self._stop(mark.line, mark.column, f"the alias *{event.anchor} stands before or inside its anchor")
        if len(self.frames) + anchored.height > MAX_DEPTH:
            self._stop(mark.line, mark.column, f"aliases nest more than {MAX_DEPTH} levels deep")
        frame = self.frames[-1]
        if frame.expects_key:
            if not isinstance(anchored.value, str):
                self._error(mark, "a key must be text", rule=Rule.WRONG_TYPE)
            self._name_value(frame, str(anchored.value), (mark.line, mark.column))
            return
        # What is inside an alias is reported where the alias is used, where the mistake is to be mended.
        self._place(anchored.value, (mark.line, mark.column, None), anchored.nodes, anchored.height)

    def _place(self, value: Any, mark: _Mark, nodes: int, height: int) -> None:
        """Put a finished value into the container it belongs to."""
        self.nodes += nodes if mark[2] is None else 1
        if self.nodes > MAX_NODES:
            self._stop(mark[0], mark[1], f"the file has more than {MAX_NODES} values (aliases count each time)")
        if not self.frames:
            self.root = (value, mark)
            return
        frame = self.frames[-1]
        frame.nodes += nodes
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.value, list):
            frame.value.append(value)
            frame.children.append(mark)
            return
        if not frame.drop_value and frame.key is not None:
            frame.value[frame.key] = value
            frame.children[frame.key] = (*frame.key_place, mark)
        frame.expects_key, frame.drop_value = True, False

    def _resolve(self, text: str, mark: Any) -> Any:
        """Return what a plain scalar means in the YAML 1.2 core schema (10.3.2), and refuse what bites."""
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.fullmatch(text):
            digits = text.lstrip("+-")
            if len(digits) > 1 and digits[0] == "0":
                reason = "a number with a leading zero is read as octal by some and as decimal by others"
                self._error(mark, f"{reason}; quote it if it is text", value=text)
                return text
            return self._integer(text, 10, mark)
        if _OCTAL_OR_HEX.fullmatch(text):
            return self._integer(text, 0, mark)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if math.isfinite(number):
                return number
            self._error(mark, "the number is too large", value=text)
        elif _NOT_FINITE.fullmatch(text):
            self._error(mark, "infinity and not-a-number are not numbers in JSON; quote it if it is text", value=text)
        return text

    def _integer(self, text: str, base: int, mark: Any) -> int | str:
        number = int(text, base) if len(text) <= 30 else MAX_INTEGER
        if -MAX_INTEGER <= number < MAX_INTEGER:
            return number
        self._error(mark, "the integer does not fit 64 bits; quote it if it is text", value=text)
        return text

    def _refuse_tag(self, event: Any) -> None:
        self._error(event.start_mark, "tags are not supported; write the value plainly", value=event.tag)

    def _syntax_error(self, error: yaml.YAMLError, text: str) -> None:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        context = getattr(error, "context", None)
        reason = f"not valid YAML: {f'{context}, ' if context else ''}{problem}"
        lines = text.split("\n")
        # Not every mark lies in a line: at the end of the text it is one beyond.
        if mark is not None and mark.line < len(lines) and "${" in lines[mark.line]:
            reason += "; a value with ${…} inside [] or {} has to be quoted"
        if mark is not None:
            line, column = mark.line, mark.column
        else:
            before = text.encode()[: getattr(error, "position", 0) or 0]
            line, column = before.count(b"\n"), len(before) - before.rfind(b"\n") - 1
        self.diagnostics.append(Diagnostic(self.file, reason, line + 1, column + 1, rule=Rule.YAML))

    def _error(self, mark: Any, reason: str, *, value: object = None, rule: Rule = Rule.YAML) -> None:
        path: Path = ()
        if self.frames:
            frame = self.frames[-1]
            path = frame.path
            if isinstance(frame.value, list):
                path = (*path, len(frame.value))
            elif not frame.expects_key and frame.key is not None:
                path = (*path, frame.key)
        pointer = format_pointer(path)
        if path and sounds_secret(str(path[-1])):
            value = None
        self.diagnostics.append(
            Diagnostic(self.file, reason, mark.line + 1, mark.column + 1, pointer, value=value, rule=rule)
        )

    def _stop(self, line: int, column: int, reason: str) -> NoReturn:
        self.diagnostics.append(Diagnostic(self.file, reason, line + 1, column + 1, rule=Rule.YAML))
        raise _Stop
