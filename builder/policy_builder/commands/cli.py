"""The command `policy-builder`: from a choice to a verified image, with an exit status that says who has to act."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policy_builder.attest.image_store import ImageError
from policy_builder.attest.keys import KeyFileError
from policy_builder.attest.verification import ReviewedError
from policy_builder.commands.lock import LockError, write_lock
from policy_builder.commands.trust import add_diff, add_push, add_sign, add_verify
from policy_builder.discover.debian import DebianError
from policy_builder.discover.engine_source import EngineError
from policy_builder.discover.platform import Platform
from policy_builder.discover.wheels import FetchError
from policy_builder.discover.workspace import Workspace, WorkspaceError, find_workspace
from policy_builder.package.bytecode import BytecodeError
from policy_builder.package.image import Built, OutputError, build
from policy_builder.package.layers import LayerError
from policy_builder.package.registry import PushError
from policy_builder.validate.report import Report, as_json
from policy_builder.validate.validation import validate

OK = 0
FINDINGS = 1
USAGE = 2
ENVIRONMENT = 3

_OTHERS = (
    *(BytecodeError, DebianError, EngineError, ImageError, KeyFileError, LayerError, LockError, OutputError),
    *(PushError, ReviewedError, OSError),
)
"""Errors that say what is missing, where the manifest is not at fault."""

_EPILOG = """exit status:
  0  done; warnings are possible
  1  the manifest or a policy has errors, an image is refused or differs; the report has all of it, nothing was written
  2  the command line is wrong
  3  something else is missing: network, registry, a tool, room on the disk; nothing was written"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except WorkspaceError as error:
        print(f"policy-builder: {error}", file=sys.stderr)
        return USAGE
    except FetchError as error:
        print(f"policy-builder: {error}\n{error.output}".rstrip(), file=sys.stderr)
    except _OTHERS as error:
        print(f"policy-builder: {error}", file=sys.stderr)
    return ENVIRONMENT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="policy-builder",
        description="Makes one image of exactly the chosen policies.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("validate", help="report everything that is wrong with the chosen policies")
    command.set_defaults(run=_validate)
    _choice_options(command)
    command = commands.add_parser("build", help="make an image of the chosen policies")
    command.set_defaults(run=_build)
    _choice_options(command)
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="replaced as a whole")
    command = commands.add_parser("lock", help="pin all that engine and policies need, with hashes (needs uv)")
    command.set_defaults(run=_lock)
    _choice_options(command)
    command.add_argument("--output", type=Path, required=True, metavar="FILE")
    text = "push a built image to a registry, with SBOM and provenance, and sign it where a key is given"
    add_push(commands.add_parser("push", help=text))
    add_sign(commands.add_parser("sign", help="sign an image in a registry, and attach what vouches for it"))
    text = "check an image's signature, provenance and SBOM, and every policy in it"
    add_verify(commands.add_parser("verify", help=text))
    add_diff(commands.add_parser("diff", help="name what changed between two images; exit status 1 when anything did"))
    return parser


def _choice_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--manifest", type=Path, required=True, metavar="FILE", help="policy-manifest.yaml")
    command.add_argument("--platform", type=_platform, default=Platform(), help="default: linux/amd64")
    command.add_argument(
        "--engine", type=Path, metavar="DIR", help="the engine's source; default: this checkout's, or what is installed"
    )
    command.add_argument(
        "--lock", type=Path, metavar="FILE", help="default: this checkout's requirements_lock.txt, or the builder's own"
    )
    command.add_argument("--debian-lock", type=Path, metavar="FILE", help="default: as for --lock")
    command.add_argument("--cache", type=Path, metavar="DIR", help="default: ~/.cache/policy-builder")
    command.add_argument(
        "--module",
        type=_module,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a Bazel module whose policies the manifest names; policy_engine is that of --engine",
    )
    command.add_argument("--json", action="store_true", help="the report as JSON on standard output")


def _platform(text: str) -> Platform:
    try:
        return Platform.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _module(text: str) -> tuple[str, Path]:
    name, equals, directory = text.partition("=")
    if not name or not equals or not Path(directory).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR with a directory that exists")
    return name, Path(directory)


def _workspace(options: argparse.Namespace) -> Workspace:
    return find_workspace(options.engine, options.lock, options.debian_lock, options.cache, dict(options.module))


def _validate(options: argparse.Namespace) -> int:
    report = Report()
    try:
        validate(options.manifest, _workspace(options), options.platform, report)
    finally:
        _show(options, report)
    return FINDINGS if report.failed else OK


def _build(options: argparse.Namespace) -> int:
    report = Report()
    workspace = _workspace(options)
    built = None
    try:
        plan = validate(options.manifest, workspace, options.platform, report)
        if plan is not None:
            built = build(plan, options.output, workspace)
    finally:
        _show(options, report, built)
    if built is None:
        return FINDINGS
    if not options.json:
        for name, size in built.layers:
            print(f"{size / 1e6:9.2f} MB  {name}")
        print(f"{built.digest}\n{built.out / 'image.tar'}: docker load --input, or podman load --input")
    return OK


def _lock(options: argparse.Namespace) -> int:
    engine = options.engine or _workspace(options).engine
    report = write_lock(options.manifest, engine, options.output, options.platform, dict(options.module))
    _show(options, report)
    return FINDINGS if report.failed else OK


def _show(options: argparse.Namespace, report: Report, built: Built | None = None) -> None:
    if options.json:
        document: dict[str, Any] = report.as_document()
        if built is not None:
            document["image"] = {
                "digest": built.digest,
                "layers": [{"name": name, "bytes": size} for name, size in built.layers],
            }
        print(as_json(document), end="")
    else:
        print(report.render_text(), end="", file=sys.stderr)
