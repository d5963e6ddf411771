"""TLS of both transports: whose certificates are taken, renewed files, files that cannot be used."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2

from policy_engine.kernel.stream import Replies
from policy_engine.transport.certificate_watch import CertificateWatch
from policy_engine.transport.client_names import ClientNames
from policy_engine.transport.grpc_server import GrpcServer
from policy_engine.transport.listen import parse_address
from policy_engine.transport.native.server import NativeServer
from policy_engine.transport.options import ServerOptions, TlsOptions
from testsupport.certificates import Authority

SERVERS = [NativeServer, GrpcServer]


class Nothing:
    def receive(self, message: bytes) -> Replies:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def authority() -> Authority:
    return Authority()


async def _checks(address: str, authority: Authority, client: tuple[bytes, bytes] | None) -> bool:
    certificate, key = client or (None, None)
    credentials = grpc.ssl_channel_credentials(authority.certificate_pem, key, certificate)
    target = address.replace("127.0.0.1", "localhost")
    async with grpc.aio.secure_channel(target, credentials) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            await check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.aio.AioRpcError:
            return False
        return True


@pytest.mark.parametrize("server_class", SERVERS)
def test_only_certificates_with_an_allowed_name_are_a_client_s(
    server_class: type[NativeServer | GrpcServer], authority: Authority, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.certificate_pem)
    names = ("envoy.example", "*.edge.example", "spiffe://cluster.local/ns/gateways/*", "spiffe://cluster.local/one")
    options = TlsOptions(*authority.issue(tmp_path, "server"), ca, names)

    async def test() -> None:
        server = server_class(lambda peer: Nothing(), ServerOptions(bind=("127.0.0.1:0",), tls=options))
        await server.start()
        try:
            for name, allowed in (
                (x509.DNSName("envoy.example"), True),
                (x509.DNSName("a.edge.example"), True),
                (x509.UniformResourceIdentifier("spiffe://cluster.local/ns/gateways/sa/envoy"), True),
                (x509.UniformResourceIdentifier("spiffe://cluster.local/one"), True),
                (x509.DNSName("other.example"), False),
                (x509.DNSName("a.b.edge.example"), False),
                (x509.DNSName("edge.example"), False),
                (x509.UniformResourceIdentifier("spiffe://cluster.local/ns/gateways"), False),
                (x509.UniformResourceIdentifier("spiffe://cluster.local/one/more"), False),
                (x509.RFC822Name("envoy.example"), False),
            ):
                assert await _checks(server.address, authority, authority.sign(name)) is allowed, name
            assert server.counters.connections_refused["client_name"] >= 6
        finally:
            await server.drain(0)

    asyncio.run(test())


@pytest.mark.parametrize("wrong", ["", "a b", "spiffe://a b/c", "spiffe://a/*/b", "*", "*.*.example"])
def test_what_is_no_name_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is n"):
        ClientNames([wrong])


def _served_serial(address: str) -> int:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as sock, context.wrap_socket(sock) as wrapped:
        der = wrapped.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


@pytest.mark.parametrize("server_class", SERVERS)
@pytest.mark.parametrize("how", ["rewritten", "renamed", "linked"])
def test_a_renewed_certificate_is_used_and_a_broken_one_is_not(
    server_class: type[NativeServer | GrpcServer],
    how: str,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("old", "new", "live"):
        (tmp_path / name).mkdir()
    old, new = authority.issue(tmp_path / "old", "server"), authority.issue(tmp_path / "new", "server")
    live = tuple(tmp_path / "live" / path.name for path in old)
    for target, source in zip(live, old, strict=True):
        if how == "linked":
            target.symlink_to(source)
        else:
            target.write_bytes(source.read_bytes())
    options = TlsOptions(live[0], live[1])

    def put(target: Path, source: Path) -> None:
        if how == "rewritten":
            target.write_bytes(source.read_bytes())
            return
        beside = target.with_suffix(".tmp")
        if how == "linked":
            beside.symlink_to(source)
        else:
            beside.write_bytes(source.read_bytes())
        beside.replace(target)

    async def test() -> None:
        server = server_class(lambda peer: Nothing(), ServerOptions(bind=("127.0.0.1:0",), tls=options))
        await server.start()
        watch = CertificateWatch(options, server.reload_tls)

        async def serial() -> int:
            return await asyncio.to_thread(_served_serial, server.address)

        try:
            first = await serial()
            put(live[0], new[0])  # without its key, as between two writes
            watch.look()
            watch.look()
            assert "not used" in caplog.text
            assert await serial() == first
            put(live[1], new[1])
            watch.look()
            assert await serial() == first  # not before the files have settled
            watch.look()
            assert await serial() not in (first, None)
            live[0].unlink()
            watch.look()
            watch.look()
            assert "cannot be read" in caplog.text
            await serial()
        finally:
            await server.drain(0)

    with caplog.at_level(logging.INFO):
        asyncio.run(test())


@pytest.mark.parametrize("server_class", SERVERS)
def test_a_missing_file_is_named_at_the_start(
    server_class: type[NativeServer | GrpcServer], authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue(tmp_path, "server")
    gone = tmp_path / "gone.pem"
    for options in (TlsOptions(gone, key), TlsOptions(certificate, gone), TlsOptions(certificate, key, gone)):

        async def test(options: TlsOptions = options) -> None:
            await server_class(lambda peer: Nothing(), ServerOptions(bind=("127.0.0.1:0",), tls=options)).start()

        with pytest.raises(ValueError, match=r"gone\.pem cannot be read: No such file"):
            asyncio.run(test())


@pytest.mark.parametrize("server_class", SERVERS)
def test_a_unix_socket_has_the_mode_and_group_it_is_given(
    server_class: type[NativeServer | GrpcServer], tmp_path: Path
) -> None:
    path = tmp_path / "s"

    async def test(address: str) -> None:
        server = server_class(lambda peer: Nothing(), ServerOptions(bind=(address,)))
        await server.start()
        try:
            found = path.stat()
            assert (found.st_mode & 0o777, found.st_gid) == (0o660, os.getgid())
            assert server.address == f"unix:{path}"
        finally:
            await server.drain(0)

    asyncio.run(test(f"unix:{path}?mode=0660"))
    asyncio.run(test(f"unix:{path}?mode=660&group={os.getgid()}"))
    with pytest.raises(OSError, match="no group 'nobody-has-this'"):
        asyncio.run(test(f"unix:{path}?group=nobody-has-this"))


@pytest.mark.parametrize(
    "wrong", ["mode=rw", "mode=9", "mode=0888", "mode=0660&mode=0600", "owner=1", "group=", "mode"]
)
def test_options_of_a_unix_socket_that_are_not_understood_are_refused(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not understood; expected unix:/path"):
        parse_address(f"unix:{tmp_path}/s?{wrong}")
