"""Listening sockets from addresses; a separate module so that the supervisor can bind sockets and pass them on."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from policy_engine.limits import ACCEPT_BACKLOG

UNIX_PREFIX = "unix:"
_UNIX_FORM = "unix:/path, with ?mode=0660 and &group=NAME for clients of other users"
_LONGEST_PATH = 107
"""Linux: sun_path holds 108 bytes with its end (unix(7))."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket: its path, and who may connect to it: the bits of its mode and the group (name or number) it is of.

    A client needs the right to write (unix(7)); without `mode` the process's umask decides.
    """

    path: Path
    mode: int | None = None
    group: str | None = None


def parse_unix(text: str) -> UnixAddress:
    """Return what `unix:/path?mode=0660&group=envoy` says; raises ValueError that says what was expected."""
    path, _, options = text.removeprefix(UNIX_PREFIX).removeprefix("//").partition("?")
    if not path or "\0" in path or len(os.fsencode(path)) > _LONGEST_PATH:
        raise ValueError(f"address {text!r}: expected {_UNIX_FORM}; a path has at most {_LONGEST_PATH} bytes")
    mode: int | None = None
    group: str | None = None
    for option in options.split("&") if options else ():
        name, _, value = option.partition("=")
        if name == "mode" and mode is None and re.fullmatch(r"0?[0-7]{3}", value, re.ASCII):
            mode = int(value, 8)
        elif name == "group" and group is None and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", value, re.ASCII):
            group = value
        else:
            raise ValueError(f"address {text!r}: {option!r} is not understood; expected {_UNIX_FORM}")
    return UnixAddress(Path(path), mode, group)


def parse_address(text: str) -> tuple[str, int] | Path:
    """Return (host, port), or the path of a Unix socket; raises ValueError that says what was expected."""
    if text.startswith(UNIX_PREFIX):
        return parse_unix(text).path
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"address {text!r}: write an IPv6 host in brackets, as in [::1]:9001")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"address {text!r}: expected host:port, [v6]:port or unix:/path")
    return host, int(port)


def bind(text: str, *, reuse_port: bool = False, backlog: int = ACCEPT_BACKLOG) -> socket.socket:
    """Bind and listen, non-blocking; raises OSError with the address in its text, or ValueError for a wrong address.

    A Unix socket left by a dead process is replaced; a path that is not a socket, or one that still answers, is not.
    """
    address = parse_address(text)
    try:
        sock = _bind_unix(parse_unix(text)) if isinstance(address, Path) else _bind_tcp(*address, reuse_port=reuse_port)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {text}: {error.strerror or error}") from error
    sock.listen(backlog)
    sock.setblocking(False)
    return sock


def bound_address(sock: socket.socket) -> str:
    """Return the bound address in the form `bind` takes, with the port that was really given."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"{UNIX_PREFIX}{name}"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


def is_bound_to(sock: socket.socket, text: str) -> bool:
    """Tell whether `sock` is bound to the address `text`, however that is written; never to port 0, which is any."""
    address, name = parse_address(text), sock.getsockname()
    if isinstance(address, Path) or sock.family == socket.AF_UNIX:
        return sock.family == socket.AF_UNIX and isinstance(address, Path) and name == str(address)
    if address[1] == 0:
        return False
    with contextlib.suppress(OSError):
        family, _, _, _, wanted = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        return family == sock.family and wanted[:2] == name[:2]
    return False


def _bind_tcp(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it: a client that vanished without a FIN is noticed in the end.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(address: UnixAddress) -> socket.socket:
    path = address.path
    if _is_stale(path):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        restrict(address)
    except OSError:
        sock.close()
        raise
    return sock


def restrict(address: UnixAddress) -> None:
    """Give a bound socket its group and mode; raises OSError naming the group when it is not known or not ours to give.

    Before anybody listens, so that there is no moment in which others may connect.
    """
    if address.group is not None:
        os.chown(address.path, -1, _group_id(address.group))
    if address.mode is not None:
        address.path.chmod(address.mode)


def _group_id(group: str) -> int:
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise OSError(errno.EINVAL, f"there is no group {group!r}") from None


def is_answered(path: Path) -> bool:
    """Tell whether a process listens at the Unix socket `path`; not when it is stale, absent or something else."""
    return _is_socket(path) and not _is_stale(path)


def _is_stale(path: Path) -> bool:
    if _is_socket(path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                return True
    return False


def _is_socket(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISSOCK(path.stat().st_mode)
    return False
