"""A file of keys that is followed by a thread of its worker process, so that no request waits for it."""

from __future__ import annotations

import stat
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from weakref import WeakValueDictionary

from policy_engine.sdk import ParameterError, dependency

from .known_keys import Keys, keys_in

POLL_SECONDS = 1.0
LARGEST = 64 << 20
"""Bytes of a file: some hundred thousand keys with all that can be said of them."""

_Seen = tuple[int, int, int]
_files: WeakValueDictionary[str, FollowedFile] = WeakValueDictionary()
_lock = threading.Lock()


def followed(path: str, where: str) -> FollowedFile:
    """Return the one follower of this file in this process, which ends with its last user; see FollowedFile."""
    with _lock:
        found = _files.get(path)
        if found is None:
            found = _files[path] = FollowedFile(path, where)
        return found


class FollowedFile:
    """The keys of the file as it last was whole and right; `keys` is replaced, never changed.

    What cannot be used (gone, not readable, a wrong line) leaves the keys as they were, and is told as a dependency.
    Raises ParameterError when there are none to begin with.
    """

    _loaded: _Seen | None
    _waiting: _Seen | None

    def __init__(self, path: str, where: str) -> None:
        self._path = Path(path)
        self._told = dependency("file", path)
        try:
            self._loaded = self._waiting = _seen(self._path)
            self.keys: Keys = _read(self._path)
        except OSError as error:
            raise ParameterError(f"cannot be read: {error.strerror}", where) from None
        except _Unusable as error:
            raise ParameterError(str(error), where) from None
        self._told.answered()
        ended = threading.Event()
        # The thread holds no reference, so that it ends with the last user.
        weakref.finalize(self, ended.set)
        threading.Thread(target=_follow, args=(weakref.ref(self), ended.wait), name="api-keys", daemon=True).start()

    def look(self) -> None:
        """Read the file if it has changed and then stayed as it is: a writer that is at work is left to finish."""
        try:
            seen = _seen(self._path)
            settled, self._waiting = seen == self._waiting, seen
            if not settled or seen == self._loaded:
                return
            self._loaded = seen
            self.keys = _read(self._path)
        except OSError as error:
            self._loaded = None
            self._told.failed(f"cannot be read: {error.strerror}")
        except _Unusable as error:
            self._told.failed(f"{error}; the keys before it stay valid")
        else:
            self._told.answered()


class _Unusable(Exception):
    """The file holds something else than keys; the message says where."""


def _follow(follower: Callable[[], FollowedFile | None], wait: Callable[[float], bool]) -> None:
    while not wait(POLL_SECONDS):
        file = follower()
        if file is None:
            return
        file.look()
        del file


def _seen(path: Path) -> _Seen:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> Keys:
    found = path.stat()
    if stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode):
        raise _Unusable("is no file")  # it could be waited for without end
    if found.st_size > LARGEST:
        raise _Unusable(f"has more than {LARGEST >> 20} MiB")
    try:
        with path.open(encoding="utf-8-sig") as lines:
            # Line by line: other threads, the one of requests among them, get their turn in between.
            return keys_in(lines)
    except UnicodeDecodeError:
        raise _Unusable("is not UTF-8") from None
    except ParameterError as error:
        line, _, field = error.path.removeprefix("/").partition("/")
        raise _Unusable(f"line {line}{f', {field}' if field else ''}: {error.message}") from None
