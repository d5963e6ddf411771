"""http-cache-tests against the policy cache, with its own client and server, through Envoy and the engine.

The tests are those of the package on npm. Those for caches of browsers alone are not run, as the suite's client has it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from integration.harness.chain_file import ChainFile, chain, chains, policy
from integration.harness.engine import EngineProcess
from integration.harness.envoy_binary import EnvoyBinaryError, envoy_binary
from integration.harness.generated_envoy import envoy_for
from integration.harness.processes import Process, ProcessError
from tools.conformance.downloads import NpmPackage, npm_package
from tools.conformance.downloads import run as run_command
from tools.conformance.suite import Case, SuiteError

_SUITE = NpmPackage(
    "http-cache-tests",
    "0.4.5",
    "DjuwN9nUZXLTW+wav1LRESCZNVxl8SshwOy4z1pxuWbWt5/ay6sM9QQ1lebBaDO6P1IMBoK6mdf+PuVP/QNL8A==",
)
_CLIENT = (
    NpmPackage(
        "node-fetch",
        "2.7.0",
        "c4FRfUm/dbcWZ7U+1Wq0AwCyFL+3nt2bEw05wfxSz+DWpWsitgmSgYmy2dQdWyKC1694ELPqMs/YzUSNozLt8A==",
    ),
    NpmPackage(
        "whatwg-url",
        "5.0.0",
        "saE57nupxk6v3HY35+jzBwYa0rKSy0XR8JSxZPwgLr7ys0IBzhGviA1/TUGJLmSVqs8pb9AnvICXEuOHLprYTw==",
    ),
    NpmPackage(
        "tr46", "0.0.3", "N3WMsuqV66lT30CrXNbEjx4GEwlow3v6rr4mCcv6prnfwhS01rkgyFdjPNBYd9br7LpXV1+Emh01fHnq2Gdgrw=="
    ),
    NpmPackage(
        "webidl-conversions",
        "3.0.1",
        "2JAn3z8AR6rjK8Sm8orRC0h/bcl/DqL7tRPdGZ4I1CjdF+EaMLmYxBHyXuKL849eucPFhvBoxMsflfOb8kxaeQ==",
    ),
)
"""What the suite's client needs; the rest of its dependencies are for its pages."""
VERSION = _SUITE.version
EXPECTED = "http_cache_tests.toml"

_POLICIES = Path(__file__).parents[2] / "policies"
_ROUTES = ("test", "config", "state")
"""What the paths of the suite's server begin with, which the generated configuration takes as route keys."""
# The suite's server has no setting for its address, and would listen on all of them.
_ON_LOOPBACK = (
    "import net from 'node:net';"
    "const listen = net.Server.prototype.listen;"
    "net.Server.prototype.listen = function (port) { return listen.call(this, port, '127.0.0.1') }"
)
_DEFINITIONS = (
    "import tests from './tests/index.mjs'; import surrogate from './tests/surrogate-control.mjs';"
    "console.log(JSON.stringify([...tests, surrogate]))"
)
_LISTENING = re.compile(r"^Listening on http://127\.0\.0\.1:(\d+)/$", re.MULTILINE)


def run() -> Iterator[Case]:
    """Fetch the suite, start everything, run the suite's client, and yield its cases."""
    try:
        envoy_binary()
    except EnvoyBinaryError as error:
        raise SuiteError(str(error)) from error
    # Not the default place for temporary files: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="ct-", dir="/tmp") as name:
        directory = Path(name)
        suite = npm_package(_SUITE, directory)
        for package in _CLIENT:
            npm_package(package, directory)
        sections = json.loads(run_command(["node", "--input-type=module", "--eval", _DEFINITIONS], suite))
        yield from cases(sections, results_of(_through_envoy(suite, directory)))


def cases(sections: Iterable[Mapping[str, Any]], results: Mapping[str, Any]) -> Iterator[Case]:
    """Yield the tests that the client ran, `SECTION/ID`, with what it says of each: true, or what went wrong and why.

    The kind of a case is what the suite says of the test: `required`, `optimal`, or `check` for mere curiosity.
    """
    for section in sections:
        for test in section["tests"]:
            if test.get("browser_only"):
                continue
            result = results.get(test["id"], ["Missing", "the client did not say"])
            detail = "" if result is True else f"{test['name']}: {': '.join(map(str, result))}"
            yield Case(f"{section['id']}/{test['id']}", result is True, detail, test.get("kind", "required"))


def results_of(printed: str) -> Mapping[str, Any]:
    """Return the results by test from what the client prints: JSON after warnings."""
    begin = printed.find("\n{\n") + 1 if not printed.startswith("{") else 0
    try:
        found = json.loads(printed[begin:])
    except ValueError:
        raise SuiteError(f"the client printed no results but {printed[-300:]!r}") from None
    if not isinstance(found, dict):
        raise SuiteError("the client printed no results by test")
    return found


def _through_envoy(suite: Path, directory: Path) -> str:
    """Run the client against Envoy and return what it prints."""
    file = ChainFile(directory / "chains.yaml")
    file.write(chains(*(chain(route, policy("cache", "v1.0.0")) for route in _ROUTES)))
    server = ["node", "--import", f"data:text/javascript,{quote(_ON_LOOPBACK)}", "server/server.mjs"]
    settings = {"npm_config_protocol": "http", "npm_config_port": "0", "npm_config_pidfile": str(directory / "pid")}
    env = {"PATH": os.environ.get("PATH", os.defpath)}
    try:
        with Process(
            "server", server, log_path=directory / "server.log", env={**env, **settings}, cwd=suite
        ) as upstream:
            upstream.wait_until(lambda: _LISTENING.search(upstream.log()) is not None, what="listening")
            port = int(_LISTENING.findall(upstream.log())[0])
            with EngineProcess(directory, chains=file.path, policies=_POLICIES) as engine:
                engine.ready()
                with envoy_for(directory, [engine.address], port, _POLICIES) as envoy:
                    settings = {"npm_config_base": envoy.url, "npm_package_config_id": ""}
                    return run_command(["node", "--no-warnings", "cli.mjs"], suite, settings)
    except ProcessError as error:
        raise SuiteError(str(error)) from error
