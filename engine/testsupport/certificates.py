"""A certificate authority of a test, whose certificates bear the names that the test says."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOCAL = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


class Authority:
    """Signs certificates for an hour."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = self._builder(self._name, self._key).add_extension(constraints, critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def sign(self, *names: x509.GeneralName) -> tuple[bytes, bytes]:
        """Return a new certificate with these names and its key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        borne = x509.SubjectAlternativeName(names or LOCAL)
        made = self._builder(x509.Name([]), key).add_extension(borne, critical=True).sign(self._key, hashes.SHA256())
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        return made.public_bytes(pem), key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)

    def issue(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write a new certificate for localhost and its key into `directory`; returns both paths."""
        paths = directory / f"{name}.pem", directory / f"{name}.key"
        for path, content in zip(paths, self.sign(), strict=True):
            path.write_bytes(content)
        return paths

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
