"""What the tests of pushing share: small images, Debian's registry, and one that does what a test tells it to."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import ipaddress
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from policy_builder.package.oci_layout import ImageConfig, write_image

USER, PASSWORD = "user", "s3cr3t-passw0rd"
HTPASSWD = "user:$2y$05$abcdefghijklmnopqrstuuaqK2GzvvdzpyGxNlESsA0MPDBr3z0XK"  # of PASSWORD
_DEADLINE = 60.0
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

Headers = Mapping[str, str] | Sequence[tuple[str, str]]
Answer = tuple[int, Headers, bytes]


@dataclass(frozen=True)
class Seen:
    """One request that came in."""

    method: str
    target: str
    authorization: str | None
    body: bytes


@dataclass
class Server:
    """A registry; `answers` by method and part of the path, the first that fits; `seen` are the requests."""

    answers: dict[tuple[str, str], Any]
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    requests: list[Seen] = field(default_factory=list)
    address: str = ""


@dataclass(frozen=True)
class Registry:
    """Debian's docker-registry as it runs: `address` is HOST:PORT, `ca` what vouches for its certificate."""

    address: str
    ca: Path | None


@contextlib.contextmanager
def debian_registry(directory: Path, *, password: bool = False, tls: bool = False) -> Iterator[Registry]:
    """Run Debian's docker-registry until the end of the block; with `password` it asks for USER and PASSWORD."""
    binary = os.environ.get("DOCKER_REGISTRY") or shutil.which("docker-registry")
    if not binary:
        raise RuntimeError("this test needs Debian's docker-registry: apt-get install docker-registry")
    settings, ca = directory / "registry.yml", directory / "registry.crt"
    if tls:
        write_certificate(ca, directory / "registry.key")
    certificate = f", tls: {{certificate: {ca}, key: {directory / 'registry.key'}}}" if tls else ""
    settings.write_text(
        f"version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '127.0.0.1:0', secret: test{certificate}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory / 'storage'}}}, delete: {{enabled: true}}}}\n"
        + (f"auth: {{htpasswd: {{realm: 'a, b=\"c', path: {directory / 'htpasswd'}}}}}\n" if password else "")
    )
    (directory / "htpasswd").write_text(f"{HTPASSWD}\n")
    log = directory / "registry.log"
    with log.open("w") as output:
        process = subprocess.Popen([binary, "serve", str(settings)], stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + _DEADLINE
        while not (found := re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield Registry(found[1], ca if tls else None)
    finally:
        process.kill()
        process.wait()


def write_certificate(path: Path, key_path: Path) -> None:
    """Write a certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry.test")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    kind = serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()))


def layout(directory: Path, *contents: bytes, architecture: str = "amd64") -> Path:
    """Write an image with a layer of each content."""
    directory.mkdir(parents=True)
    tars = []
    for number, content in enumerate(contents):
        tars.append(directory / f"layer{number}.tar")
        tars[-1].write_bytes(content)
    write_image(directory / "oci", tars, ImageConfig("linux", architecture, entrypoint=("/x",)))
    return directory / "oci"


def log_in(directory: Path, server: str, login: str = "user:pass") -> None:
    """Write docker's config.json with a login for `server`."""
    auth = base64.b64encode(login.encode()).decode()
    (directory / "config.json").write_text(json.dumps({"auths": {server: {"auth": auth}}}))


@contextlib.contextmanager
def scripted(server: Server) -> Iterator[Server]:
    """Serve until the end of the block; an answer is a tuple, or a function of the request that returns one."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            seen = Seen(self.command, self.path, self.headers.get("Authorization"), body)
            server.seen.append((seen.method, path, seen.authorization))
            server.requests.append(seen)
            found: Answer | Callable[[Seen], Answer] = next(
                (
                    one
                    for (method, part), one in server.answers.items()
                    if method in (self.command, "*") and part in path
                ),
                (404, {}, b""),
            )
            status, headers, content = found(seen) if callable(found) else found
            self.send_response(status)
            for name, value in headers.items() if isinstance(headers, Mapping) else headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = answer

        def log_message(self, *_: object) -> None: ...

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
