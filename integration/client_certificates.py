"""Clients that show a certificate, and the listener that checks it, for tests of who a client is.

Apart from `runtime_stack` because most tests speak plain HTTP.
"""

from __future__ import annotations

import ssl
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

from cryptography import x509

from integration.runtime_stack import Runtime
from testsupport.certificates import LOCAL, Authority


class Clients:
    """Clients with and without a certificate, which is for the URI `workload` and the DNS name `shop.test`."""

    def __init__(self, directory: Path, workload: str) -> None:
        self.authority = Authority()
        self.directory = directory
        self.certificate, key = self.authority.sign(x509.UniformResourceIdentifier(workload), x509.DNSName("shop.test"))
        (directory / "client.pem").write_bytes(self.certificate + key)

    def send(self, runtime: Runtime, target: str, token: str = "", *, shows: bool = True) -> HTTPResponse:
        """Send a request over TLS; `shows` its certificate."""
        context = ssl.create_default_context(cadata=self.authority.certificate_pem.decode())
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as the authority of tests has no key identifiers
        if shows:
            context.load_cert_chain(self.directory / "client.pem")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        connection = HTTPSConnection("127.0.0.1", runtime.envoy.port, context=context, timeout=15)
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer


def downstream_tls(clients: Clients) -> Any:
    """Return the transport socket of a listener that takes such certificates, and connections without one."""
    certificate, key = clients.authority.sign(*LOCAL)
    common = {
        "tls_certificates": [
            {
                "certificate_chain": {"inline_string": certificate.decode()},
                "private_key": {"inline_string": key.decode()},
            }
        ],
        "validation_context": {"trusted_ca": {"inline_string": clients.authority.certificate_pem.decode()}},
    }
    context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    return {"name": "tls", "typed_config": {"@type": context, "common_tls_context": common}}
