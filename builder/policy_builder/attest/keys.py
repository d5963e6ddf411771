"""Keys that sign images and those that check signatures: PEM files, cosign's key files, and programs that ask a KMS.

A separate module because it alone handles private keys: they and their passwords stay in it, and no error shows them.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from policy_builder.attest.secretbox import SecretboxError, open_secretbox

PASSWORD = "COSIGN_PASSWORD"  # noqa: S105 - the variable that cosign reads as well
PROGRAM_SECONDS = 120.0
_MAX_BYTES = 1 << 20
_MAX_SCRYPT = 1 << 20
_COSIGN = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")

_Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
_Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class KeyFileError(Exception):
    """A key cannot be used; the message says which file and why, and shows nothing of it."""


class Signer(Protocol):
    """Whatever signs."""

    def sign(self, content: bytes) -> bytes:
        """Return the signature of `content` as cosign expects it: of an ECDSA key in DER, over SHA-256.

        Raises KeyFileError.
        """
        ...


class KeySigner:
    """Signs with the private key in the PEM file `path`; encrypted ones need the password in COSIGN_PASSWORD."""

    def __init__(self, path: Path) -> None:
        self._key = _private_key(path, os.environ.get(PASSWORD, "").encode())

    def sign(self, content: bytes) -> bytes:
        """Return the signature of `content`."""
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(content, ec.ECDSA(hashes.SHA256()))
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(content, padding.PKCS1v15(), hashes.SHA256())
        return self._key.sign(content)

    def public_key(self) -> PublicKey:
        """Return what checks its signatures."""
        return PublicKey(self._key.public_key())


class ProgramSigner:
    """Signs by a program: it gets the content on standard input and prints the signature, as it is or in base64.

    Such as a client of a KMS. `command` is split as a shell would; no shell runs.
    """

    def __init__(self, command: str) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise KeyFileError(f"the command that signs cannot be read: {error}") from None
        if not self._command:
            raise KeyFileError("the command that signs is empty")

    def sign(self, content: bytes) -> bytes:
        """Return the signature of `content`."""
        name = self._command[0]
        try:
            done = subprocess.run(
                self._command, input=content, capture_output=True, check=False, timeout=PROGRAM_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise KeyFileError(f"{name}, which signs, did not answer within {PROGRAM_SECONDS:g} s") from None
        except OSError as error:
            raise KeyFileError(f"{name}, which signs, does not start: {error.strerror}") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-500:]
            raise KeyFileError(f"{name}, which signs, failed with status {done.returncode}: {said}")
        try:
            return base64.b64decode(done.stdout.strip(), validate=True) or b""
        except (binascii.Error, ValueError):
            return done.stdout


class PublicKey:
    """Checks signatures."""

    def __init__(self, key: _Public) -> None:
        self._key = key

    @classmethod
    def read(cls, path: Path) -> PublicKey:
        """Return the public key in a PEM file: a key, or the one of a certificate. Raises KeyFileError."""
        content = _read(path)
        key: object
        try:
            if b"BEGIN CERTIFICATE" in content:
                from cryptography import x509  # noqa: PLC0415 - few need it

                key = x509.load_pem_x509_certificate(content).public_key()
            else:
                key = serialization.load_pem_public_key(content)
        except (ValueError, UnsupportedAlgorithm):
            raise KeyFileError(f"{path} holds no public key in PEM form; `cosign public-key` prints one") from None
        if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
            raise KeyFileError(f"{path} holds a public key that signs nothing here; allowed: ECDSA, RSA, Ed25519")
        return cls(key)

    def verifies(self, signature: bytes, content: bytes) -> bool:
        """Return whether `signature` is one of `content` by the private key that belongs to this one."""
        try:
            if isinstance(self._key, ec.EllipticCurvePublicKey):
                self._key.verify(signature, content, ec.ECDSA(hashes.SHA256()))
            elif isinstance(self._key, rsa.RSAPublicKey):
                self._key.verify(signature, content, padding.PKCS1v15(), hashes.SHA256())
            else:
                self._key.verify(signature, content)
        except InvalidSignature:
            return False
        return True


def _private_key(path: Path, password: bytes) -> _Private:
    content = _read(path)
    encrypted = b"ENCRYPTED" in content
    if any(f"BEGIN {label}".encode() in content for label in _COSIGN):
        content = _of_cosign(path, content, password)
        key = serialization.load_der_private_key(content, None)
    else:
        try:
            key = serialization.load_pem_private_key(content, (password or None) if encrypted else None)
        except TypeError:
            raise KeyFileError(f"{path} is encrypted; its password belongs into {PASSWORD}") from None
        except (ValueError, UnsupportedAlgorithm):
            wrong = f", or {PASSWORD} has another password" if encrypted else ""
            raise KeyFileError(f"{path} holds no private key in PEM form{wrong}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds a key that signs nothing here; allowed: ECDSA, RSA, Ed25519")
    return key


def _of_cosign(path: Path, content: bytes, password: bytes) -> bytes:
    """Return the key (PKCS #8, DER) that cosign encrypted: scrypt makes a key of the password, secretbox has it."""
    try:
        text = b"".join(line for line in content.split(b"\n") if line.strip() and not line.startswith(b"-----"))
        document = json.loads(base64.b64decode(text))
        parameters = document["kdf"]["params"]
        cost, size, lanes = (int(parameters[name]) for name in ("N", "r", "p"))
        if document["kdf"]["name"] != "scrypt" or document["cipher"]["name"] != "nacl/secretbox":
            raise ValueError("another cipher")
        if cost * size * lanes > _MAX_SCRYPT * 8:
            raise ValueError("costs too much")
        salt = base64.b64decode(document["kdf"]["salt"])
        derived = Scrypt(salt=salt, length=32, n=cost, r=size, p=lanes).derive(password)
        nonce, box = (base64.b64decode(one) for one in (document["cipher"]["nonce"], document["ciphertext"]))
    except (ValueError, KeyError, TypeError, MemoryError):
        raise KeyFileError(f"{path} is not a private key as cosign writes it") from None
    try:
        return open_secretbox(derived, nonce, box)
    except SecretboxError:
        raise KeyFileError(f"{path} cannot be decrypted: {PASSWORD} has another password, or none") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror or error}") from None
