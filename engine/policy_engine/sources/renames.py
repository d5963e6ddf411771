"""Knows which files were put in their place whole, by a rename, and have not been written to since.

A separate module because it is the one thing about files that looking at them cannot tell: a file renamed into place
and one created there and half written look alike (clocks of file systems tick every few milliseconds). Linux's
inotify(7) tells them apart. Where there is none (other systems, network file systems, too many watches), no file is
known to be whole, and whoever asks has to wait for longer.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLY_DIRECTORIES = 0x01000000
_MASK = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ONLY_DIRECTORIES
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 << 10


@dataclass(slots=True)
class Renames:
    """Follows directories; one thread uses it. `stop` it in the end."""

    _descriptor: int = -1
    _directories: dict[int, str] = field(default_factory=dict)
    _whole: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if sys.platform == "linux":
            self._descriptor = ctypes.CDLL(None).inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)

    def follow(self, directories: Iterable[str]) -> None:
        """Follow the real paths `directories` from now on, besides those already followed."""
        if self._descriptor < 0:
            return
        known = set(self._directories.values())
        for directory in directories:
            if directory not in known:
                watch = ctypes.CDLL(None).inotify_add_watch(self._descriptor, os.fsencode(directory), _MASK)
                if watch >= 0:
                    self._directories[watch] = directory

    def update(self) -> None:
        """Take note of everything that has happened so far."""
        if self._descriptor < 0:
            return
        with suppress(BlockingIOError):
            while events := os.read(self._descriptor, _READ_BYTES):
                self._note(events)

    def is_whole(self, path: str) -> bool:
        """Return whether the file at this real path was seen to be renamed there, and not written to since."""
        return path in self._whole

    def stop(self) -> None:
        """Give back the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _note(self, events: bytes) -> None:
        offset = 0
        while offset < len(events):
            watch, mask, _, length = _EVENT.unpack_from(events, offset)
            offset += _EVENT.size + length
            name = os.fsdecode(events[offset - length : offset].rstrip(b"\0"))
            if mask & _OVERFLOW:
                self._whole.clear()
            elif mask & _IGNORED:
                gone = self._directories.pop(watch, None)
                self._whole = {one for one in self._whole if os.path.dirname(one) != gone}  # noqa: PTH120 - as below
            elif watch in self._directories:
                path = os.path.join(self._directories[watch], name)  # noqa: PTH118 - texts, as `file_watch` has them
                if mask & _MOVED_TO:
                    self._whole.add(path)
                else:
                    self._whole.discard(path)
