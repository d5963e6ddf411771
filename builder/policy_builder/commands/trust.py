"""The commands `push`, `sign`, `verify` and `diff` of `policy-builder`: what a registry is given, and what it is asked.

A separate module because these need a registry or a finished image, and no policies.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policy_builder.attest.comparison import Side, changes
from policy_builder.attest.contents import PYTHON_PACKAGE, read_documents
from policy_builder.attest.envelopes import Subject, image_payload
from policy_builder.attest.image_store import ImageError, LayoutStore, RegistryStore, Store, images, unpack
from policy_builder.attest.keys import KeySigner, ProgramSigner, PublicKey, Signer
from policy_builder.attest.verification import TrustedPython, Wanted, read_reviewed, verify
from policy_builder.attest.vouching import BUILDER_ID, Origin, Vouched, attach_signature, vouch
from policy_builder.discover.debian import DebianError, read_lock
from policy_builder.discover.workspace import WorkspaceError, find_workspace
from policy_builder.package.bytecode import BytecodeError, Interpreter, machine_architecture
from policy_builder.package.compiling_python import compiling_python
from policy_builder.package.oci_layout import INDEX_TYPE, MANIFEST_TYPE, digest_of
from policy_builder.package.push import push
from policy_builder.package.registry import Connection, PushError, Repository
from policy_builder.package.source_revision import UNKNOWN, Source, read_source, read_tags, without_credentials

OK = 0
DIFFERENT = 1

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_NOTES = {
    "certificate": "dev.sigstore.cosign/certificate",
    "certificate_chain": "dev.sigstore.cosign/chain",
    "bundle": "dev.sigstore.cosign/bundle",
}


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry: HOST/NAME with a digest, or with a tag that is looked up."""

    repository: str
    digest: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return the reference that `text` is. Raises PushError."""
        repository, at, digest = text.partition("@")
        if at and not _DIGEST.fullmatch(digest):
            raise PushError(f"{text!r} has no digest sha256:… after the @")
        name, colon, tag = repository.rpartition(":")
        if colon and "/" not in tag:
            return cls(name, digest, tag)
        if not at:
            raise PushError(f"{text!r} names no image: write HOST/NAME@sha256:DIGEST")
        return cls(repository, digest, "")


def add_push(command: argparse.ArgumentParser) -> None:
    """Give the command `push` its arguments."""
    command.set_defaults(run=_push)
    command.add_argument("output", type=Path, metavar="DIR", help="the --output of build")
    command.add_argument("-r", "--repository", required=True, metavar="HOST/NAME")
    command.add_argument("-t", "--tag", action="append", default=[], help="default: those of the choice of policies")
    command.add_argument("--no-attach", action="store_true", help="push the image alone, without SBOM and provenance")
    _signing_options(command)
    _connection_options(command)


def add_sign(command: argparse.ArgumentParser) -> None:
    """Give the command `sign` its arguments."""
    command.set_defaults(run=_sign)
    command.add_argument("image", metavar="HOST/NAME@DIGEST", help="an image, or an index of several platforms")
    command.add_argument("--payload", type=Path, metavar="FILE", help="write what is to be signed elsewhere")
    command.add_argument("--signature", type=Path, metavar="FILE", help="attach this signature of it (base64)")
    command.add_argument("--certificate", type=Path, metavar="FILE", help="certificate of that signature's key, PEM")
    command.add_argument("--certificate-chain", type=Path, metavar="FILE", help="authorities of that certificate, PEM")
    command.add_argument("--bundle", type=Path, metavar="FILE", help="transparency log entry, as cosign writes it")
    _signing_options(command)
    _connection_options(command)


def add_verify(command: argparse.ArgumentParser) -> None:
    """Give the command `verify` its arguments."""
    command.set_defaults(run=_verify)
    command.add_argument("image", metavar="IMAGE", help="HOST/NAME@DIGEST, or the --output of build")
    text = "public key, PEM; may be repeated. Without one only the content is checked, which needs --content-only"
    command.add_argument("--key", type=Path, action="append", default=[], metavar="FILE", help=text)
    command.add_argument("--content-only", action="store_true", help="ask for no signature, SBOM or provenance")
    text = "digests of reviewed policies: lines NAME VERSION sha256:…, or a registry.json; every policy must be in it"
    command.add_argument("--reviewed", type=Path, metavar="FILE", help=text)
    command.add_argument("--builder-id", default="", metavar="URI", help="builder that the provenance must name")
    command.add_argument("--source", default="", metavar="URI[@REVISION]", help="source that it must name")
    command.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    text = "has the Python that compiles what is in the image anew; default: this checkout's, or the builder's own"
    command.add_argument("--debian-lock", type=Path, metavar="FILE", help=text)
    command.add_argument("--cache", type=Path, metavar="DIR", help="default: ~/.cache/policy-builder")
    _connection_options(command)


def add_diff(command: argparse.ArgumentParser) -> None:
    """Give the command `diff` its arguments."""
    command.set_defaults(run=_diff)
    command.add_argument("old", metavar="IMAGE", help="HOST/NAME@DIGEST, or the --output of build")
    command.add_argument("new", metavar="IMAGE")
    command.add_argument("--platform", default="", metavar="OS/ARCH", help="which image of an index")
    command.add_argument("--json", action="store_true", help="as JSON")
    _connection_options(command)


def _signing_options(command: argparse.ArgumentParser) -> None:
    text = "private key that signs: PEM, or as cosign writes it; COSIGN_PASSWORD has the password"
    command.add_argument("--key", type=Path, metavar="FILE", help=text)
    text = "program that signs: what is signed comes on standard input, the signature is its output, base64 or not"
    command.add_argument("--sign-command", default="", metavar="COMMAND", help=text)
    command.add_argument("--source", default="", metavar="URI", help="repository of the source; default: git's origin")
    command.add_argument(
        "--revision", default="", metavar="COMMIT", help="commit of the source; default: that of build"
    )
    command.add_argument(
        "--builder-id", default=BUILDER_ID, metavar="URI", help="who builds, such as the CI's workflow"
    )


def _connection_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--insecure", action="store_true", help="plain HTTP to a host that is not this machine")
    command.add_argument("--ca", type=Path, metavar="FILE", help="PEM file of further authorities to trust")


def _connection(options: argparse.Namespace) -> Connection:
    return Connection(options.insecure, options.ca)


def _signer(options: argparse.Namespace) -> Signer | None:
    if options.key is not None and options.sign_command:
        raise PushError("--key and --sign-command are two ways to sign; choose one")
    if options.key is not None:
        return KeySigner(options.key)
    return ProgramSigner(options.sign_command) if options.sign_command else None


def _origin(options: argparse.Namespace, layout: Path | None) -> Origin:
    built, materials = read_source(layout) if layout is not None else (UNKNOWN, [])
    source = Source(
        without_credentials(options.source) or built.uri,
        options.revision or built.revision,
        built.modified and not options.revision,
    )
    return Origin(source, options.builder_id, tuple(materials))


def _push(options: argparse.Namespace) -> int:
    signer = _signer(options)
    layout = options.output / "oci"
    tags = options.tag or read_tags(layout)
    pushed = push(layout, options.repository, tags, _connection(options))
    print(f"{options.repository}@{pushed.digest}", *pushed.tags)
    print(f"{pushed.uploaded} uploaded, {pushed.present} already there", file=sys.stderr)
    if not options.no_attach:
        registry = Repository(options.repository, _connection(options))
        subject = Subject(options.repository, pushed.digest)
        with tempfile.TemporaryDirectory() as scratch:
            origin = _origin(options, layout)
            store = LayoutStore(layout)
            attached = vouch(registry, subject, store=store, signer=signer, origin=origin, scratch=Path(scratch))
        _show_attached(attached)
    return OK


def _sign(options: argparse.Namespace) -> int:
    signer = _signer(options)
    given = [one for one in (signer, options.payload, options.signature) if one is not None]
    if len(given) != 1:
        raise PushError("give one of --key, --sign-command, --payload and --signature")
    reference = Reference.parse(options.image)
    registry = Repository(reference.repository, _connection(options))
    with tempfile.TemporaryDirectory() as scratch:
        store = RegistryStore(registry, Path(scratch))
        digest = _resolved(reference, store)
        subject = Subject(reference.repository, digest)
        origin = _origin(options, None)
        payload = image_payload(subject, {})
        if options.payload is not None:
            options.payload.write_bytes(payload)
            image = f"{reference.repository}@{digest}"
            print(f"{options.payload}: sign it, then: policy-builder sign {image} --signature FILE")
        elif options.signature is not None:
            content = store.manifest(digest)
            kind = INDEX_TYPE if "manifests" in json.loads(content) else MANIFEST_TYPE
            descriptor = {"mediaType": kind, "digest": digest, "size": len(content)}
            notes = {
                note: getattr(options, name).read_text(encoding="utf-8")
                for name, note in _NOTES.items()
                if getattr(options, name) is not None
            }
            signature = options.signature.read_text(encoding="utf-8").strip()
            attached = attach_signature(registry, descriptor, payload, signature, notes)
            _show_attached([Vouched(digest, {"signature": attached})])
        else:
            _show_attached(vouch(registry, subject, store=store, signer=signer, origin=origin, scratch=Path(scratch)))
    return OK


def _verify(options: argparse.Namespace) -> int:
    if not options.key and not options.content_only:
        raise PushError("--key FILE says whose signature is asked for; --content-only asks for none")
    wanted = Wanted(
        tuple(PublicKey.read(path) for path in options.key) if not options.content_only else (),
        read_reviewed(options.reviewed) if options.reviewed is not None else None,
        options.builder_id,
        options.source,
        _trusted_python(options),
    )
    with tempfile.TemporaryDirectory() as scratch:
        store, digest, registry = _opened(options.image, options, Path(scratch))
        if registry is None and wanted.keys:
            raise PushError(f"{options.image} is no image in a registry, where signatures are; add --content-only")
        verdicts = verify(store, digest, wanted, Path(scratch), registry)
    failed = any(verdict.findings for verdict in verdicts)
    if options.json:
        print(json.dumps({"verified": not failed, "images": [one.as_document() for one in verdicts]}, indent=2))
        return DIFFERENT if failed else OK
    for verdict in verdicts:
        print(f"{verdict.platform} {verdict.digest}: {'REFUSED' if verdict.findings else 'verified'}")
        for line in (*verdict.findings, *verdict.facts, *verdict.notes):
            print(f"  {line}")
    return DIFFERENT if failed else OK


def _trusted_python(options: argparse.Namespace) -> TrustedPython | None:
    """Return the Python of the lock, unpacked for this machine; None where it cannot be had, and says why."""
    try:
        workspace = find_workspace(debian_lock=options.debian_lock, cache=options.cache)
        lock = read_lock(workspace.debian_lock, machine_architecture())
        version = next((one.version for one in lock.packages if one.name == PYTHON_PACKAGE), "")
        directory = compiling_python(workspace.debian_lock, workspace.cache)
    except (WorkspaceError, DebianError, BytecodeError) as error:
        print(f"policy-builder: {error}", file=sys.stderr)
        return None
    return TrustedPython(Interpreter(directory), version)


def _diff(options: argparse.Namespace) -> int:
    sides = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, text in enumerate((options.old, options.new)):
            place = Path(scratch, str(number))
            place.mkdir()
            store, digest, _ = _opened(text, options, place)
            chosen = [one for one in images(store, digest) if options.platform in ("", one.platform)]
            if len(chosen) != 1:
                listed = ", ".join(one.platform for one in images(store, digest))
                raise ImageError(f"{text} has images for {listed}; choose one with --platform")
            root = place / "root"
            root.mkdir()
            listing = unpack(store, chosen[0], root)
            sides.append(Side(chosen[0], listing, read_documents(root)))
    found = changes(*sides)
    if options.json:
        print(json.dumps([one.as_document() for one in found], indent=2))
    else:
        print("".join(f"{one}\n" for one in found) or "no difference\n", end="")
    return DIFFERENT if found else OK


def _opened(text: str, options: argparse.Namespace, scratch: Path) -> tuple[Store, str, Repository | None]:
    """Return where the image `text` lies, its digest, and its registry; None for an image on disk."""
    directory = Path(text)
    if directory.is_dir():
        layout = LayoutStore(directory / "oci" if (directory / "oci").is_dir() else directory)
        return layout, layout.top(), None
    reference = Reference.parse(text)
    registry = Repository(reference.repository, _connection(options), reading=True)
    store = RegistryStore(registry, scratch)
    return store, _resolved(reference, store), registry


def _resolved(reference: Reference, store: RegistryStore) -> str:
    return reference.digest or digest_of(store.manifest(reference.tag))


def _show_attached(found: Sequence[Vouched]) -> None:
    for one in found:
        for kind, digest in one.attached.items():
            print(f"{one.digest}: {kind} {digest}", file=sys.stderr)
