"""Handlers, clients and certificates that the tests of both transports use."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from policy_engine.kernel.stream import Peer, Replies, StreamError
from policy_engine.transport.health import EXT_PROC_SERVICE

PROCESS = f"/{EXT_PROC_SERVICE}/Process"

Answer = Callable[[bytes], Replies | Coroutine[Any, Any, Replies]]


def echo(message: bytes) -> Replies:
    """Answer with the message itself."""
    return message


@dataclass(slots=True)
class Recorder:
    """A factory of handlers that answer with `answer` and whose life is recorded."""

    answer: Answer = echo
    messages: list[bytes] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    closed_twice: int = 0
    cancelled: int = 0

    def __call__(self, peer: Peer) -> RecordedHandler:
        """Make one handler."""
        self.opened += 1
        return RecordedHandler(self)

    @property
    def balanced(self) -> bool:
        """Every handler was closed exactly once."""
        return self.opened == self.closed and not self.closed_twice


class RecordedHandler:
    """A handler of a Recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._closed = False
        self._busy = False

    def receive(self, message: bytes) -> Replies | Coroutine[Any, Any, Replies]:
        """Record, then answer as the recorder says."""
        if self._busy or self._closed:
            raise AssertionError("receive called while a message is under way, or after close")
        self._recorder.messages.append(message)
        reply = self._recorder.answer(message)
        return self._wait(reply) if isinstance(reply, Coroutine) else reply

    def close(self) -> None:
        """Record."""
        if self._busy:
            raise AssertionError("close called while a message is under way")
        if self._closed:
            self._recorder.closed_twice += 1
        self._closed = True
        self._recorder.closed += 1

    async def _wait(self, reply: Coroutine[Any, Any, Replies]) -> Replies:
        self._busy = True
        try:
            return await reply
        except asyncio.CancelledError:
            self._recorder.cancelled += 1
            raise
        finally:
            self._busy = False


def scripted(message: bytes) -> Replies | Coroutine[Any, Any, Replies]:
    """Do as the message says: `none`, `two`, `sleep:<seconds>`, `status:<code>:<text>`, `raise`, `big:<bytes>`."""
    command, _, rest = message[:100].partition(b":")
    match command:
        case b"none":
            return None
        case b"two":
            return (b"first", b"second")
        case b"sleep":
            return _sleep(float(rest))
        case b"status":
            code, _, text = rest.partition(b":")
            raise StreamError(int(code), text.decode())
        case b"raise":
            raise RuntimeError("on purpose")
        case b"big":
            return b"b" * int(rest)
    return message


async def _sleep(seconds: float) -> Replies:
    await asyncio.sleep(seconds)
    return b"slept"


def process_call(channel: grpc.aio.Channel, **options: Any) -> Any:
    """Open a raw-bytes `Process` stream, as Envoy does."""
    return channel.stream_stream(PROCESS, None, None)(**options)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition; raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 # any condition, also one that nobody signals
            await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: a CA, and a certificate with key for the server and for a client."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(directory: Path) -> Certificates:
    """Make a CA and the two certificates, valid for an hour and for 127.0.0.1 and localhost."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("test CA", ca_key, None, ca_key)
    paths = Certificates(
        *(directory / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key"))
    )
    paths.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for name, certificate_path, key_path in (
        ("localhost", paths.server, paths.server_key),
        ("envoy", paths.client, paths.client_key),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, key, ca, ca_key)
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return paths


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=issuer is None,
                crl_sign=issuer is None,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
    )
    return builder.sign(issuer_key, hashes.SHA256())
