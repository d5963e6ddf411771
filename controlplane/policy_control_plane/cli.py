"""The command `policy-control-plane`: serve (when no command is named), status, validate, bootstrap."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from policy_control_plane.ads_server import AdsServer, ServerTls
from policy_control_plane.configuration import Configuration, model_reader
from policy_control_plane.fleet import Fleet
from policy_control_plane.rollout import Rollout, Waits
from policy_control_plane.snapshot_builder import SnapshotBuilder
from policy_control_plane.status import Overview, StatusServer, converged, render
from policy_engine import __version__
from policy_engine.documents.diagnostics import has_errors, render_json, render_text
from policy_engine.documents.quantities import parse_duration, parse_size
from policy_engine.limits import BODY_LIMIT, FILE_SETTLE_SECONDS, POLICY_TIMEOUT
from policy_engine.settings.model import LogFormat, LogLevel
from policy_engine.sources.chain_file import read_chain_files
from policy_engine.telemetry.logs import configure_logging
from policy_engine.worker.policies.loader import PoliciesUnusable, load_policies
from policy_engine.worker.policies.registry import Registry

logger = logging.getLogger("policy_control_plane")

_EXIT_STATUS = """exit status:
  0  done; what was checked is valid or has converged
  1  what was checked is not valid, or has not converged
  2  the command line is wrong, or it cannot start
"""
_STATUS = "127.0.0.1:18001"
_COMMANDS = ("serve", "status", "validate", "bootstrap")
_OPTIONS = ("-h", "--help", "--version")


class CannotStart(Exception):
    """The message says what is missing or taken."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in (*_COMMANDS, *_OPTIONS):
        given.insert(0, "serve")
    options = parser().parse_args(given)
    try:
        return int(options.command(options))
    except (CannotStart, PoliciesUnusable) as error:
        print(f"policy-control-plane: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, with every command."""
    parser = argparse.ArgumentParser(
        prog="policy-control-plane",
        description="Serves routes to Envoy and their chains to policy engines.",
        epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"policy-control-plane {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve a directory over xDS (the default command)")
    _add_directory(serve)
    serve.add_argument("--listen", default="127.0.0.1:18000", metavar="ADDRESS", help="xDS, gRPC (%(default)s)")
    serve.add_argument("--status-listen", default=_STATUS, metavar="ADDRESS", help="HTTP /status (%(default)s)")
    serve.add_argument("--tls-certificate", type=Path, metavar="FILE", help="PEM; without it, plain text")
    serve.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM")
    serve.add_argument("--tls-client-ca", type=Path, metavar="FILE", help="require client certificates of this CA")
    serve.add_argument(
        "--policy-timeout", type=_duration, default=POLICY_TIMEOUT, help="the engines' policy_timeout (1s)"
    )
    serve.add_argument(
        "--metadata-namespace", action="append", default=[], metavar="NAME", help="dynamic metadata policies may write"
    )
    serve.add_argument("--engine-wait", type=_duration, default=5.0, help="longest wait for engines (5s)")
    serve.add_argument("--envoy-wait", type=_duration, default=10.0, help="longest wait for Envoys (10s)")
    serve.add_argument(
        "--expected-engines", type=int, default=1, metavar="N", help="engines that come before Envoys after a start (1)"
    )
    serve.add_argument(
        "--settle",
        type=_duration,
        default=FILE_SETTLE_SECONDS,
        help="time a file that was not renamed into place must be left alone before it is read (2s)",
    )
    serve.add_argument(
        "--end-marker", action="store_true", help="refuse a file whose last line is not `...`, as half written"
    )
    serve.add_argument("--log-format", choices=tuple(LogFormat), default="json", help="form of log lines (%(default)s)")
    serve.add_argument(
        "--log-level", choices=tuple(LogLevel), default="info", help="least severity that is logged (%(default)s)"
    )
    serve.set_defaults(command=_serve)
    status = commands.add_parser("status", help="who has which version, and what was refused; exit code 1 on trouble")
    status.add_argument("--address", default=_STATUS, help="the control plane's --status-listen (%(default)s)")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(command=_status)
    validate = commands.add_parser("validate", help="check a directory, serve nothing")
    _add_directory(validate)
    validate.add_argument("--json", action="store_true", help="as JSON")
    validate.set_defaults(command=_validate)
    bootstrap = commands.add_parser("bootstrap", help="print the bootstrap of an Envoy")
    bootstrap.add_argument("--server", default="127.0.0.1:18000", metavar="HOST:PORT", help="(%(default)s)")
    bootstrap.add_argument("--node-id", required=True, help="names this Envoy in the status")
    bootstrap.add_argument("--admin-port", type=int, help="admin interface on 127.0.0.1; none unless given")
    bootstrap.add_argument("--sotw", action="store_true", help="state of the world instead of incremental xDS")
    bootstrap.add_argument("--ca", metavar="FILE", help="CA of the control plane, on Envoy's machine; makes it TLS")
    bootstrap.add_argument("--certificate", metavar="FILE", help="Envoy's certificate, on its machine (mutual TLS)")
    bootstrap.add_argument("--key", metavar="FILE", help="key of the certificate, on Envoy's machine")
    bootstrap.set_defaults(command=_bootstrap)
    return parser


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-dir", type=Path, required=True, metavar="DIR", help="its *.yaml and *.yml files")
    parser.add_argument("--body-limit", type=_size, default=BODY_LIMIT, help="the engines' body_limit (10MiB)")
    parser.add_argument(
        "--policies",
        type=Path,
        metavar="PATH",
        help="registry.json or directory of policies; chains are checked with it",
    )


def _serve(options: argparse.Namespace) -> int:
    configure_logging(options.log_level, options.log_format)
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    fleet = Fleet()
    waits = Waits(options.engine_wait, options.envoy_wait, expected_engines=options.expected_engines)
    rollout = Rollout(fleet, waits)
    registry = _registry(options)
    namespaces = tuple(options.metadata_namespace)
    builder = SnapshotBuilder(registry, options.body_limit, namespaces, options.policy_timeout)
    configuration = Configuration(
        options.config_dir,
        model_reader(registry, options.body_limit),
        builder,
        rollout.offer,
        settle=options.settle,
        end_marker=options.end_marker,
    )
    try:
        server = AdsServer(fleet, options.listen, _tls(options))
        status = StatusServer(options.status_listen, Overview(configuration, rollout, fleet))
        await status.start()
    except OSError as error:
        raise CannotStart(str(error)) from None
    await server.start()
    logger.info("xDS on port %d, status on port %d", server.port, status.port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    parts = [asyncio.create_task(part) for part in (configuration.run(), rollout.run(), stop.wait())]
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
    finally:
        for part in parts:
            part.cancel()
        await server.stop()
        await status.stop()
    return 0


def _status(options: argparse.Namespace) -> int:
    url = f"http://{options.address}/status"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            document = json.load(response)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise CannotStart(f"no status from {url}: {error}") from None
    print(json.dumps(document, indent=2) if options.json else render(document), end="\n" if options.json else "")
    return 0 if converged(document) and not document["configuration"]["rejected"] else 1


def _validate(options: argparse.Namespace) -> int:
    found = (
        model_reader(_registry(options), options.body_limit).read(read_chain_files((options.config_dir,))).diagnostics
    )
    if options.json:
        print(render_json(found), end="")
    else:
        print(render_text(found) if found else f"valid: {options.config_dir}\n", end="")
    return 1 if has_errors(found) else 0


def _bootstrap(options: argparse.Namespace) -> int:
    from policy_control_plane.bootstrap import BootstrapOptions, bootstrap  # noqa: PLC0415 - only this command needs it

    server = urlsplit(f"//{options.server}")
    if not server.hostname or not server.port:
        raise CannotStart(f"--server {options.server!r} is not HOST:PORT")
    if options.certificate and not (options.key and options.ca):
        raise CannotStart("--certificate needs --key and --ca")
    text = bootstrap(
        BootstrapOptions(
            server.hostname,
            server.port,
            options.node_id,
            admin_port=options.admin_port,
            delta=not options.sotw,
            authority=options.ca,
            certificate=options.certificate,
            key=options.key,
        )
    )
    print(text, end="")
    return 0


def _registry(options: argparse.Namespace) -> Registry | None:
    return None if options.policies is None else load_policies(options.policies)


def _tls(options: argparse.Namespace) -> ServerTls | None:
    if options.tls_certificate is None and options.tls_key is None and options.tls_client_ca is None:
        return None
    if options.tls_certificate is None or options.tls_key is None:
        raise CannotStart("TLS needs both --tls-certificate and --tls-key")
    return ServerTls(options.tls_certificate, options.tls_key, options.tls_client_ca)


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
