"""A real identity provider for tests: signing keys, a certificate authority and a JWKS server over TLS on loopback.

Not part of an image: a target of its own, for tests only.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example.test"
AUDIENCE = "orders"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def signing_key(name: str, kind: str = "RSA") -> PrivateKey:
    """Return the private key of that name, made on first use; `kind` is RSA, RSA-1024, P-256, P-384 or Ed25519."""
    return _signing_key(name, kind)


@cache
def _signing_key(name: str, kind: str) -> PrivateKey:
    match kind:
        case "RSA":
            return rsa.generate_private_key(65537, 2048)
        case "RSA-1024":
            return rsa.generate_private_key(65537, 1024)  # noqa: S505 # to be refused
        case "P-256":
            return ec.generate_private_key(ec.SECP256R1())
        case "P-384":
            return ec.generate_private_key(ec.SECP384R1())
    return ed25519.Ed25519PrivateKey.generate()


def jwk(name: str, kind: str = "RSA", **members: Any) -> dict[str, Any]:
    """Return the public JWK of a signing key with its name as key id; `members` are added, None drops one."""
    public = signing_key(name, kind).public_key()
    algorithm = {"RSA": RSAAlgorithm, "P-2": ECAlgorithm, "P-3": ECAlgorithm, "Ed2": OKPAlgorithm}[kind[:3]]
    made: dict[str, Any] = algorithm.to_jwk(public, as_dict=True)  # type: ignore[attr-defined] # one per key kind
    made.pop("key_ops", None)
    return {key: value for key, value in {**made, "kid": name, **members}.items() if value is not None}


def pem(name: str, kind: str = "RSA") -> str:
    """Return the public key as PEM."""
    public = signing_key(name, kind).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def token(
    key: str = "one",
    kind: str = "RSA",
    *,
    algorithm: str = "RS256",
    headers: dict[str, Any] | None = None,
    **claims: Any,
) -> str:
    """Return a signed token, good for five minutes unless `claims` say otherwise; a claim of None is left out."""
    now = int(time.time())
    body = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    named = {name: value for name, value in {"kid": key, **(headers or {})}.items() if value is not None}
    return jwt.encode(body, signing_key(key, kind), algorithm=algorithm, headers=named)


def segment(value: object) -> str:
    """Return `value` as a base64url segment; what is not bytes as JSON."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


_CERTIFICATE_SIGNING = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """A certificate authority with its files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        now = datetime.datetime.now(datetime.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=30))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_CERTIFICATE_SIGNING, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = str(directory / "ca.pem")
        Path(self.ca_file).write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def server_context(self, *, expired: bool = False, host: str = "localhost") -> ssl.SSLContext:
        """Return a TLS context for a server named `host` and 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName(host)]
        addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))] if host == "localhost" else []
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=-1 if expired else 10))
            .add_extension(x509.SubjectAlternativeName([*names, *addresses]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        file = self._directory / f"{host}-{expired}.pem"
        file.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


class JwksServer:
    """What the server answers next, and how often it was asked; change the attributes at will.

    `delay` in seconds before the answer, `drip` between its bytes; `chunked` sends no length beforehand.
    """

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.body: bytes | None = None
        self.status = 200
        self.headers: dict[str, str] = {}
        self.delay = 0.0
        self.drip = 0.0
        self.chunked = False
        self.requests = 0
        self.url = ""

    def document(self) -> bytes:
        """Return the body to be sent."""
        return json.dumps({"keys": self.keys}).encode() if self.body is None else self.body


@contextmanager
def serve(server: JwksServer, context: ssl.SSLContext) -> Iterator[JwksServer]:
    """Serve over TLS on a free port of loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests += 1
            time.sleep(server.delay)
            body = server.document()
            self.send_response(server.status)
            framing = {"transfer-encoding": "chunked"} if server.chunked else {"content-length": str(len(body))}
            for name, value in {**framing, **server.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if server.chunked:
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            for index in range(0, len(body), 1 if server.drip else len(body)):
                self.wfile.write(body[index : index + (1 if server.drip else len(body))])
                time.sleep(server.drip)

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            pass  # a client that gives up is part of the tests

    # The handshake runs in the connection's own thread, so that a client that stalls in it stalls nobody else.
    httpd = Quiet(("127.0.0.1", 0), Handler)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.url = f"https://localhost:{httpd.server_address[1]}/keys"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@contextlib.contextmanager
def dropping(address: str, port: int) -> Iterator[None]:
    """Have TCP packets to an address of the loopback dropped."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(8):  # a full backlog: Linux drops what comes then
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((address, port))
        yield


def resolving(monkeypatch: pytest.MonkeyPatch, name: str, addresses: Sequence[str]) -> None:
    """Let a name have these addresses, in this order."""
    real = socket.getaddrinfo

    def looked_up(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        if host not in (name, name.encode()):
            return list(real(host, port, *args, **options))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
