"""How the management server is reached: mutual TLS, and who is kept out; Unix sockets."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from policy_engine.sources.xds.channel import TlsFiles
from testsupport.xds_scripted_server import (
    Engine,
    Stream,
    delta,
    eventually,
    following,
    management_server,
    settings_for,
)


class Authority:
    """A throw-away certificate authority."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(subject, key).add_extension(names, False).sign(self._key, hashes.SHA256())
        certificate_path, key_path = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate_path, key_path

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )


@pytest.mark.parametrize(
    ("client", "works"),
    [("mtls", True), ("tls without certificate", False), ("foreign authority", False), ("plain text", False)],
)
def test_mutual_tls(tmp_path: Path, client: str, works: bool) -> None:
    authority, foreign = Authority(tmp_path, "authority"), Authority(tmp_path, "foreign")
    certificate, key = authority.issue("localhost")
    client_certificate, client_key = authority.issue("engine-1")
    tls = {
        "mtls": TlsFiles(authority.path, client_certificate, client_key),
        "tls without certificate": TlsFiles(authority.path),
        "foreign authority": TlsFiles(foreign.path, client_certificate, client_key),
        "plain text": None,
    }[client]
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], authority.path.read_bytes(), require_client_auth=True
    )

    async def script(stream: Stream, _: int) -> None:
        await stream.read()
        await stream.exchange(delta("n1", "a"))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        async with (
            management_server(script, credentials=credentials) as address,
            following(settings_for(address, tls=tls, connect_timeout=1.0), engine) as source,
        ):
            if works:
                await eventually(lambda: engine.applied)
            else:
                await eventually(lambda: source.status.last_error)
                spoken = "TLS, as xds.tls.ca is set" if tls is not None else "plain text, as xds.tls.ca is not set"
                assert spoken in (source.status.last_error or "")
                assert not engine.applied

    asyncio.run(run())


def test_renewed_files_are_used_for_the_next_connection(tmp_path: Path) -> None:
    authority, foreign = Authority(tmp_path, "authority"), Authority(tmp_path, "foreign")
    certificate, key = authority.issue("localhost")
    renewed, outdated = authority.issue("engine-1"), foreign.issue("engine-0")
    live = tmp_path / "live.pem", tmp_path / "live.key"
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], authority.path.read_bytes(), require_client_auth=True
    )

    def put(files: tuple[Path, Path]) -> None:
        for target, source in zip(live, files, strict=True):
            beside = target.with_suffix(".tmp")
            beside.write_bytes(source.read_bytes())
            beside.replace(target)

    async def script(stream: Stream, _: int) -> None:
        await stream.read()
        await stream.exchange(delta("n1", "a"))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        put(outdated)
        tls = TlsFiles(authority.path, *live)
        async with (
            management_server(script, credentials=credentials) as address,
            following(settings_for(address, tls=tls, connect_timeout=1.0), engine) as source,
        ):
            await eventually(lambda: source.status.last_error)
            put(renewed)
            await eventually(lambda: engine.applied)

    asyncio.run(run())


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(ValueError, match="together"):
        TlsFiles(certificate=Path("x"))


def test_a_unix_socket(tmp_path: Path) -> None:
    async def script(stream: Stream, _: int) -> None:
        await stream.read()
        await stream.exchange(delta("n1", "a"))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        address = f"unix:{tmp_path}/xds.sock"
        async with management_server(script, address), following(settings_for(address), engine):
            await eventually(lambda: engine.applied)

    asyncio.run(run())
