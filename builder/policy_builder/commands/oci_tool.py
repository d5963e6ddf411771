"""The command line over OCI layouts that Bazel's image rules run in offline mode (tools/offline/modules/rules_oci).

    oci_tool build [--labels FILE] [--annotations FILE] [--env FILE] OUT CONFIG.json LAYER…
    oci_tool index OUT LAYOUT…
    oci_tool digest LAYOUT OUT
    oci_tool tarball LAYOUT OUT TAGS-FILE
    oci_tool push LAYOUT --repository HOST/NAME [--tag TAG]… [--tags-file FILE] [--insecure] [--ca FILE]

A separate module because its arguments belong to those rules and not to `policy-builder`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from policy_builder.package.oci_layout import ImageConfig, blobs, write_docker_archive, write_image, write_index
from policy_builder.package.push import Connection, PushError, push


def _pairs(files: Sequence[Path]) -> dict[str, str]:
    """Read files of `key=value` lines."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def _build(options: argparse.Namespace) -> None:
    given = json.loads(options.config.read_text())
    for name in ("entrypoint", "cmd", "exposed_ports"):
        given[name] = tuple(given[name])
    env, labels, annotations = (_pairs(one) for one in (options.env, options.labels, options.annotations))
    config = ImageConfig(**given, env=env, labels=labels, annotations=annotations)
    write_image(options.out, options.layers, config)


def _index(options: argparse.Namespace) -> None:
    write_index(options.out, options.layouts)


def _digest(options: argparse.Namespace) -> None:
    options.out.write_text(blobs(options.layout)[-1].digest + "\n")


def _tarball(options: argparse.Namespace) -> None:
    write_docker_archive(options.layout, options.out, options.tags.read_text().split())


def _push(options: argparse.Namespace) -> None:
    tags = [*options.tag, *(tag for file in options.tags_file for tag in file.read_text().split())]
    try:
        pushed = push(options.layout, options.repository, tags, Connection(options.insecure, options.ca))
    except PushError as error:
        raise SystemExit(str(error)) from None
    print(f"{options.repository}@{pushed.digest}", *tags)
    print(f"{pushed.uploaded} uploaded, {pushed.present} already there", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("build")
    command.set_defaults(run=_build)
    command.add_argument("out", type=Path)
    command.add_argument("config", type=Path)
    command.add_argument("--labels", type=Path, action="append", default=[])
    command.add_argument("--annotations", type=Path, action="append", default=[])
    command.add_argument("--env", type=Path, action="append", default=[])
    command.add_argument("layers", type=Path, nargs="*")
    command = commands.add_parser("index")
    command.set_defaults(run=_index)
    command.add_argument("out", type=Path)
    command.add_argument("layouts", type=Path, nargs="+")
    command = commands.add_parser("digest")
    command.set_defaults(run=_digest)
    command.add_argument("layout", type=Path)
    command.add_argument("out", type=Path)
    command = commands.add_parser("tarball")
    command.set_defaults(run=_tarball)
    command.add_argument("layout", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("tags", type=Path)
    command = commands.add_parser("push")
    command.set_defaults(run=_push)
    command.add_argument("layout", type=Path)
    command.add_argument("-r", "--repository", required=True)
    command.add_argument("-t", "--tag", action="append", default=[])
    command.add_argument("--tags-file", type=Path, action="append", default=[])
    command.add_argument("--insecure", action="store_true", help="plain HTTP to a host that is not this machine")
    command.add_argument("--ca", type=Path, help="PEM file of authorities to trust besides those of this machine")
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
