"""Keys: every form that signs, and that none of them is shown when it cannot be used."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from policy_builder.attest.keys import KeyFileError, KeySigner, ProgramSigner, PublicKey
from policy_builder.attest.secretbox import SecretboxError, open_secretbox, seal_secretbox

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
PASSWORD = "pa ss"


def test_a_secretbox_is_that_of_nacl() -> None:
    """The example of "Cryptography in NaCl", section 10 (tests/secretbox.c of NaCl)."""
    key = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    nonce = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    message = bytes.fromhex(
        "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561"
        "f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e"
        "52f0a089bc76897040e082f937763848645e0705"
    )
    box = bytes.fromhex(
        "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b"
        "4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da"
        "99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5"
    )
    assert seal_secretbox(key, nonce, message) == box
    assert open_secretbox(key, nonce, box) == message
    with pytest.raises(SecretboxError):
        open_secretbox(key, nonce, box[:-1] + b"\0")
    with pytest.raises(SecretboxError, match="length"):
        open_secretbox(key[:-1], nonce, box)


def cosign_key(key: ec.EllipticCurvePrivateKey, password: bytes, label: str = "ENCRYPTED SIGSTORE PRIVATE KEY") -> str:
    """Return a private key as `cosign generate-key-pair` writes it."""
    der = key.private_bytes(serialization.Encoding.DER, PKCS8, serialization.NoEncryption())
    salt, nonce = os.urandom(32), os.urandom(24)
    derived = Scrypt(salt=salt, length=32, n=65536, r=8, p=1).derive(password)
    document = {
        "kdf": {"name": "scrypt", "params": {"N": 65536, "r": 8, "p": 1}, "salt": base64.b64encode(salt).decode()},
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(nonce).decode()},
        "ciphertext": base64.b64encode(seal_secretbox(derived, nonce, der)).decode(),
    }
    text = base64.b64encode(json.dumps(document).encode()).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"


def test_a_key_of_cosign_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "cosign.key"
    for label in ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"):
        path.write_text(cosign_key(key, PASSWORD.encode(), label))
        monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
        signer = KeySigner(path)
        assert signer.public_key().verifies(signer.sign(b"x"), b"x")
        monkeypatch.setenv("COSIGN_PASSWORD", "other")
        with pytest.raises(KeyFileError, match="COSIGN_PASSWORD has another password"):
            KeySigner(path)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["p256", "p384", "rsa", "ed25519"],
)
@pytest.mark.parametrize("password", ["", PASSWORD])
def test_keys_in_pem_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    password: str,
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", password)
    private, public = tmp_path / "k.key", tmp_path / "k.pub"
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    private.write_bytes(key.private_bytes(PEM, PKCS8, encryption))
    public.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    signature = KeySigner(private).sign(b"content")
    checked = PublicKey.read(public)
    assert checked.verifies(signature, b"content")
    assert not checked.verifies(signature, b"Content")
    assert not checked.verifies(signature[:-1], b"content")
    if password:
        monkeypatch.delenv("COSIGN_PASSWORD")
        with pytest.raises(KeyFileError, match="its password belongs into COSIGN_PASSWORD"):
            KeySigner(private)


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "k"
    odd = dsa.generate_private_key(2048)
    for content in (
        b"",
        b"secret\n",
        b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n",
        odd.private_bytes(PEM, PKCS8, serialization.NoEncryption()),
    ):
        path.write_bytes(content)
        for reader in (KeySigner, PublicKey.read):
            with pytest.raises(KeyFileError) as caught:
                reader(path)
            assert str(path) in str(caught.value)
            assert "c2VjcmV0" not in str(caught.value)
    with pytest.raises(KeyFileError, match="cannot be read"):
        PublicKey.read(tmp_path / "absent")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("", "is empty"),
        ("'", "cannot be read"),
        ("/no/such/program", "does not start"),
        ("false", "failed with status 1"),
    ],
)
def test_programs_that_do_not_sign(command: str, reason: str) -> None:
    with pytest.raises(KeyFileError, match=reason):
        ProgramSigner(command).sign(b"x")


def test_a_program_may_answer_in_base64_or_not() -> None:
    assert ProgramSigner("printf 'c2ln\\n'").sign(b"x") == b"sig"
    assert ProgramSigner("cat").sign(b"\x30\x45") == b"\x30\x45"
