"""Listening sockets from addresses; a separate module so that the supervisor can bind sockets and pass them on."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from policy_engine.limits import ACCEPT_BACKLOG

UNIX_PREFIX = "unix:"


def parse_address(text: str) -> tuple[str, int] | Path:
    """Return (host, port), or the path of a Unix socket; raises ValueError that says what was expected."""
    if text.startswith(UNIX_PREFIX):
        path = text.removeprefix(UNIX_PREFIX).removeprefix("//")
        if not path:
            raise ValueError(f"address {text!r}: expected unix:/path")
        return Path(path)
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
        sock = _bind_unix(address) if isinstance(address, Path) else _bind_tcp(*address, reuse_port=reuse_port)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {text}: {os.strerror(error.errno or 0)}") from error
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


def _bind_unix(path: Path) -> socket.socket:
    if _is_stale(path):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    return sock


def _is_stale(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    return True
    return False
