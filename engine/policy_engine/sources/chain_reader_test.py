"""Chains read from files: every key, every mistake with its place, and secrets that never show."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from policy_engine.documents.diagnostics import Rule
from policy_engine.documents.secret_references import SecretSource
from policy_engine.documents.yaml_document import read_document
from policy_engine.sdk.hooks import Phase
from policy_engine.sources.chain_reader import ChainReader, LoadedChains
from policy_engine.worker.chains.spec import ChainsSpec, FailureMode, RouteSpec
from policy_engine.worker.policies.loader import load_policy_tree
from policy_engine.worker.policies.registry import Registry
from testsupport.policy_directories import write_policy

SECRET = "s3cr3t-value-of-the-environment"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("policies")
    for version in ("v1.0.0", "v1.2.0", "v2.0.0"):
        write_policy(root, version=version)
    registry, diagnostics = load_policy_tree(root)
    assert registry is not None, diagnostics
    return registry


def check_condition(text: str, phases: frozenset[Phase]) -> Sequence[object]:
    return ["column 3: unknown name `requst`"] if "requst" in text else []


class Chains:
    def __init__(
        self, registry: Registry, environ: dict[str, str] | None = None, *, construction_seconds: float = 10.0
    ) -> None:
        self.reader = ChainReader(
            registry,
            check_condition=check_condition,
            secrets=lambda: SecretSource(environ or {}),
            default_timeout=2.0,
            construction_seconds=construction_seconds,
        )

    def read(self, *texts: str) -> LoadedChains:
        documents = [read_document(f"f{index}.yaml", text.encode()) for index, text in enumerate(texts)]
        return self.reader.read_documents(
            [document for document, _ in documents if document is not None],
            [one for _, diagnostics in documents for one in diagnostics],
        )

    def good(self, text: str) -> ChainsSpec:
        loaded = self.read(text)
        assert loaded.chains is not None, loaded.diagnostics
        return loaded.chains

    def errors(self, *texts: str) -> list[str]:
        loaded = self.read(*texts)
        assert loaded.chains is None
        return [str(one) for one in loaded.diagnostics]


@pytest.fixture
def chains(registry: Registry) -> Chains:
    return Chains(registry, {"SECRET": SECRET, "SHORT": "abc"})


def chain(policy: str) -> str:
    return f"version: v1\nroutes:\n- route_key: r\n  policies:\n  - {policy}\n"


def test_every_key(chains: Chains) -> None:
    spec = chains.good("""
version: v1
routes:
- route_key: public
  policies: []
- route_key: private
  policies:
  - name: tested
    version: v1
    enabled: false
    condition: request.method == "GET"
    failure_mode: open
    timeout: 500ms
    parameters: {count: 3}
  - {name: tested, version: v2.0.0}
""")
    public, private = spec.routes
    assert public == RouteSpec("public")
    first, second = private.policies
    assert (first.name, first.version, first.written_version) == ("tested", "v1.2.0", "v1")
    assert not first.enabled
    assert (first.condition, first.failure_mode, first.timeout) == ('request.method == "GET"', FailureMode.OPEN, 0.5)
    assert first.parameters == {"count": 3, "header": "x-tested"}
    assert (second.enabled, second.condition, second.failure_mode) == (True, None, FailureMode.CLOSED)
    assert second.timeout == 2.0
    assert second.parameters == {"header": "x-tested"}


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        ("{nam: tested, version: v1}", "f0.yaml:5:6: /routes/0/policies/0/nam: 'nam' is not a key of a policy; did you mean 'name'?"),
        ("{version: v1}", "/routes/0/policies/0: lacks the required key 'name'"),
        ("{name: tested}", "/routes/0/policies/0: lacks the required key 'version'"),
        ("{name: testd, version: v1}", "/name: there is no policy 'testd' in this engine; did you mean 'tested'?; allowed: tested"),
        ("{name: tested, version: v3}", 'in this version (got "v3"); allowed: v1.0.0, v1.2.0, v2.0.0'),
        ("{name: tested, version: v1.2}", 'in this version (got "v1.2"); allowed: v1.0.0, v1.2.0, v2.0.0'),
        ("{name: tested, version: 1.0}", "/version: is a number (got 1.0); allowed: v1.0.0 (exact) or v1"),
        ("{name: 5, version: v1}", "/name: must be text, not an integer (YAML reads it so; quote it) (got 5)"),
        ("{name: tested, version: v1, enabled: yes}", "must be a boolean, not text (YAML 1.2 reads yes as text; write true)"),
        ("{name: tested, version: v1, failure_mode: opn}", "did you mean 'open'? (got \"opn\"); allowed: closed, open"),
        ("{name: tested, version: v1, timeout: 5}", "not an integer (write 5s or 5ms) (got 5); allowed: a duration"),
        ("{name: tested, version: v1, timeout: 5 s}", '/timeout: is not a duration (got "5 s"); allowed: a duration such as'),
        ("{name: tested, version: v1, timeout: 0s}", "/timeout: is out of range"),
        ("{name: tested, version: v1, timeout: 2h}", "/timeout: is out of range"),
        ("{name: tested, version: v1, condition: requst.path}", "/condition: column 3: unknown name `requst`"),
        ("{name: tested, version: v1, condition: ''}", "/condition: must not be empty"),
        ("{name: tested, version: v1, condition: true}", "/condition: must be text, not a boolean"),
        ("{name: tested, version: v1, parameters: []}", "/parameters: must be an object, not a list"),
        ("{name: tested, version: v1, parameters: {count: 0}}", "f0.yaml:5:53: /routes/0/policies/0/parameters/count: tested v1.2.0: is too small (got 0); allowed: at least 1"),
        ("{name: tested, version: v1, parameters: {cuont: 1}}", "f0.yaml:5:46: /routes/0/policies/0/parameters/cuont: tested v1.2.0: is not a known parameter; did you mean 'count'?"),
        ("{name: tested, version: v1, parameters: {url: nowhere}}", "/url: tested v1.2.0: is not of format uri (got \"nowhere\")"),
        ("{name: tested, version: v1, parameters: {refused: this}}", "f0.yaml:5:55: /routes/0/policies/0/parameters/refused: tested v1.2.0: cannot use this"),
        ("text", "/routes/0/policies/0: a policy must be an object, not text"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_place(chains: Chains, policy: str, error: str) -> None:
    errors = chains.errors(chain(policy))
    assert len(errors) == 1, errors
    assert error in errors[0]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "f0.yaml:1:1: a chain file is empty"),
        ("[]", "a chain file must be an object, not a list; allowed: an object with version, errors, shared, routes"),
        ("routes: []", "lacks the required key 'version'; allowed: v1"),
        ("version: v2\nroutes: []", '/version: is not one of the values allowed (got "v2"); allowed: v1'),
        ("version: v1", "lacks the required key 'routes'"),
        ("version: v1\nroutes:", "/routes: must be a list, not null (write [] for an empty list)"),
        ("version: v1\nroutes: []\nunmapped_routes: pass", "'unmapped_routes' is not a key of a chain file"),
        ("version: v1\nroutes: [{route_key: a}]", "/routes/0: lacks the required key 'policies'"),
        ("version: v1\nroutes: [{policies: []}]", "/routes/0: lacks the required key 'route_key'"),
        ("version: v1\nroutes: [{route_key: a, policies: []}, {route_key: a, policies: []}]", "already used in f0.yaml:2"),
        ("version: v1\nroutes: [{route_key: a, policies: [], polices: []}]", "did you mean 'policies'?"),
        ("version: v1\nroutes: [x]", "/routes/0: a route must be an object, not text"),
    ],
)  # fmt: skip
def test_mistakes_above_the_policies(chains: Chains, text: str, error: str) -> None:
    errors = chains.errors(text)
    assert len(errors) == 1, errors
    assert error in errors[0]


def test_a_route_key_used_in_two_files_names_both_places(chains: Chains) -> None:
    one = "version: v1\nroutes:\n- route_key: same\n  policies: []\n"
    assert chains.errors(one, "# moved down\n" + one) == [
        "f1.yaml:4:14: /routes/0/route_key: the route key 'same' is already used in f0.yaml:3; a route has one chain"
        ' (route "same")'
    ]


def test_what_a_misspelt_key_holds_is_checked_in_the_same_round(chains: Chains) -> None:
    text = """\
version: v1
routs:
- rout_key: r
  polices:
  - nam: testd
    version: v1
  - name: tested
    versoin: v7
  - name: tested
    version: v1
    paramters: {count: 0}
    timeuot: 5
"""
    assert [(one.line, one.rule.value) for one in chains.read(text).diagnostics] == [
        (2, "unknown-key"),
        (3, "unknown-key"),
        (4, "unknown-key"),
        (5, "unknown-key"),
        (5, "unknown-policy"),
        (8, "unknown-key"),
        (8, "unknown-version"),
        (11, "unknown-key"),
        (11, "invalid-parameters"),
        (12, "unknown-key"),
        (12, "wrong-type"),
    ]


def test_a_misspelt_key_beside_the_right_one_is_only_that(chains: Chains) -> None:
    text = "version: v1\nroutes:\n- route_key: r\n  polices: [{name: nobody}]\n  policies: []\n"
    (found,) = chains.errors(text)
    assert "'polices' is not a key of a route" in found


def test_misspelt_keys_inside_aliases_end_too(chains: Chains) -> None:
    text = "version: v1\nroutes:\n- &a {route_key: r, polices: [{name: nobody, version: v1}]}\n- *a\n"
    assert any("no policy 'nobody'" in one for one in chains.errors(text))


@pytest.mark.parametrize("key", ["n", "y", "No", "no", "on", "OFF", "'1e3'", "'null'", "'~'"])
def test_route_keys_that_others_read_as_booleans_are_texts(chains: Chains, key: str) -> None:
    spec = chains.good(f"version: v1\nroutes: [{{route_key: {key}, policies: []}}]\n")
    assert spec.routes[0].route_key == key.strip("'")


@pytest.mark.parametrize("key", ["true", "1e3", "1", "null", "~"])
def test_route_keys_that_are_no_texts_are_refused(chains: Chains, key: str) -> None:
    (error,) = chains.errors(f"version: v1\nroutes: [{{route_key: {key}, policies: []}}]\n")
    assert "must be text" in error


def test_a_finding_names_the_route_that_it_is_about(chains: Chains) -> None:
    text = """\
version: v1
routes:
- route_key: first
  policies: []
- route_key: "second, with a comma"
  policies:
  - {name: nobody, version: v1}
  - {name: tested, version: v1, version: v1}
  - {name: tested, version: v1, condition: 'requst.path'}
  - {name: tested, version: v1, parameters: {key: '${env:NOWHERE}', refused: x, count: 0}}
  - {name: tested, version: v1, parameters: {refused: x}}
- policies: []
"""
    found = chains.read(text).diagnostics
    assert {one.rule for one in found} >= {Rule.UNKNOWN_POLICY, Rule.DUPLICATE_KEY, Rule.CONDITION, Rule.REFUSED}
    for one in found:
        named = one.path.startswith("/routes/1/")
        assert one.route == ("second, with a comma" if named else "")
        first_line = str(one).partition("\n")[0]
        assert first_line.endswith('(route "second, with a comma")') == named
        assert one.as_document()["route"] == one.route


def test_secrets_are_resolved_and_never_shown(chains: Chains) -> None:
    spec = chains.good(chain("{name: tested, version: v1, parameters: {header: 'Bearer ${env:SECRET}', key: plain}}"))
    policy = spec.routes[0].policies[0]
    assert policy.parameters["header"] == f"Bearer {SECRET}"
    assert policy.secrets == {"/header"}
    assert policy.redacted_parameters() == {"header": "***", "key": "plain"}
    for shown in (repr(spec), repr(policy), str(spec.routes[0].as_document())):
        assert SECRET not in shown


def test_a_missing_secret_is_the_one_thing_said_about_its_parameter(chains: Chains) -> None:
    errors = chains.errors(chain("{name: tested, version: v1, parameters: {url: '${env:NOWHERE}'}}"))
    assert errors == [
        'f0.yaml:5:51: /routes/0/policies/0/parameters/url: the environment variable NOWHERE is not set (route "r")'
    ]


@pytest.mark.parametrize(
    "parameters", ["{url: '${env:SECRET}'}", "{refused: '${env:SECRET}'}", "{key: '${env:SHORT}'}"]
)
def test_what_is_wrong_with_a_secret_is_said_without_it(chains: Chains, parameters: str) -> None:
    errors = chains.errors(chain(f"{{name: tested, version: v1, parameters: {parameters}}}"))
    assert len(errors) == 1
    assert SECRET not in errors[0]
    assert "abc" not in errors[0]


QUOTING = """\
import re

from policy_engine.sdk import ParameterError, Policy


class Tested(Policy):
    def __init__(self, parameters):
        try:
            re.compile(parameters["key"])
        except re.error as error:
            place = error.pos
            raise ParameterError(f"{{error.msg}} in {{error.pattern[place:]!r}}", parameters["header"]) from None

    def on_request_headers(self, request):
        return None
"""


@pytest.mark.parametrize("pointer", ["", "/", "/key", "/count", "/nowhere/at/all"])
def test_an_error_of_a_regular_expression_shows_no_piece_of_the_secret_in_it(tmp_path: Path, pointer: str) -> None:
    write_policy(tmp_path, code=QUOTING)
    registry, _ = load_policy_tree(tmp_path)
    assert registry is not None
    key = "^hunter2(unclosed-swordfish|x"
    entry = f"{{name: tested, version: v1, parameters: {{header: '{pointer}', key: '${{env:KEY}}'}}}}"
    (found,) = Chains(registry, {"KEY": key}).errors(chain(entry))
    for piece in ("hunter", "unclosed", "sword", "fish"):
        assert piece not in found
    if pointer == "/key":
        assert found.endswith('/key: tested v1.0.0: is not valid; why is not shown, as it holds a secret (route "r")')
    else:
        assert "missing )" in found
        assert "'***'" in found


def test_a_text_that_only_looks_like_a_reference_is_refused(chains: Chains) -> None:
    for text in ("${ENV:SECRET}", "${vault:secret}", "${file/run/secret}", "${env:SECRET", "${file:/a/${env:SECRET}}"):
        loaded = chains.read(chain(f"{{name: tested, version: v1, parameters: {{key: '{text}'}}}}"))
        assert [one.rule for one in loaded.diagnostics] == [Rule.REFERENCE]
        assert loaded.diagnostics[0].path == "/routes/0/policies/0/parameters/key"


def test_unchanged_entries_are_not_constructed_again(registry: Registry, chains: Chains) -> None:
    module = __import__("sys").modules[registry.resolve("tested", "v2").policy_class.__module__]
    module.CREATED.clear()
    text = chain("{name: tested, version: v2, parameters: {count: 7}}")
    chains.good(text)
    chains.good(text)
    chains.good(text.replace("route_key: r", "route_key: other"))
    assert len(module.CREATED) == 1
    chains.good(text.replace("7", "8"))
    assert len(module.CREATED) == 2


def test_a_refused_entry_is_tried_again(chains: Chains) -> None:
    text = chain("{name: tested, version: v1, parameters: {refused: x}}")
    assert chains.errors(text) == chains.errors(text)


def test_a_route_from_elsewhere_goes_through_the_same_checks(chains: Chains) -> None:
    def policy(**changes: Any) -> dict[str, Any]:
        return {"route_key": "r", "policies": [{"name": "tested", "version": "v1", **changes}]}

    loaded = chains.reader.read_route("xds:r", policy(timeout="250ms"))
    assert loaded.chains is not None
    assert loaded.chains.routes[0].policies[0].timeout == 0.25
    loaded = chains.reader.read_route("xds:r", policy(parameters={"count": 0}))
    assert loaded.chains is None
    assert [str(one) for one in loaded.diagnostics] == [
        "xds:r: /policies/0/parameters/count: tested v1.2.0: is too small (got 0); allowed: at least 1"
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no way')", "failed in its constructor with ValueError: no way"),
        ("raise SystemExit(3)", "failed in its constructor with SystemExit: 3"),
        ("import asyncio; asyncio.get_running_loop()", "no running event loop"),  # as in the engine
        ("import asyncio; self.lock = asyncio.Lock()", None),
    ],
)
def test_constructors_of_every_temper(tmp_path: Path, body: str, said: str | None) -> None:
    code = f"""
from policy_engine.sdk import Policy

class Tested(Policy):
    def __init__(self, parameters):
        {body}

    def on_request_headers(self, request): ...

    async def close(self):
        pass
"""
    write_policy(tmp_path, code=code)
    registry, diagnostics = load_policy_tree(tmp_path)
    assert registry is not None, diagnostics
    loaded = Chains(registry).read(chain("{name: tested, version: v1}"))
    assert (loaded.chains is None) == (said is not None)
    assert all(said is not None and said in str(one) for one in loaded.diagnostics)


HANGS = """
import socket, time
from policy_engine.sdk import Policy

class Tested(Policy):
    def __init__(self, parameters):
        match parameters.get("header"):
            case "loops":
                while True:
                    pass
            case "stubborn":
                while True:
                    try:
                        time.sleep(0.01)
                    except Exception:
                        pass
            case "waits":
                mine, self.theirs = socket.socketpair()
                mine.recv(1)

    def on_request_headers(self, request): ...
"""


@pytest.mark.parametrize("header", ["loops", "stubborn", "waits"])
def test_a_constructor_that_never_returns_is_a_finding(tmp_path: Path, header: str) -> None:
    write_policy(tmp_path, code=HANGS.replace("{", "{{").replace("}", "}}"))
    registry, diagnostics = load_policy_tree(tmp_path)
    assert registry is not None, diagnostics
    reader = Chains(registry, construction_seconds=0.3)
    hanging = f"{{name: tested, version: v1, parameters: {{header: {header}}}}}"
    before = threading.active_count()
    for attempt in range(3):
        loaded = reader.read(chain(f"{hanging}\n  - {{name: tested, version: v1, parameters: {{header: fine}}}}"))
        assert loaded.chains is None
        assert len(loaded.diagnostics) == 1
        assert "/policies/0/parameters: tested v1.0.0: its constructor " in str(loaded.diagnostics[0])
        if attempt == 0:
            assert "did not return within 0.3 s; it is at " in str(loaded.diagnostics[0])
            assert "policy.py:" in str(loaded.diagnostics[0])
    # What can be broken off is gone; what cannot has left one thread, not one for each attempt.
    assert threading.active_count() - before == (1 if header == "waits" else 0)
    assert reader.read(chain("{name: tested, version: v1, parameters: {header: fine}}")).chains is not None


def test_many_that_hang_end_the_trial(tmp_path: Path) -> None:
    write_policy(tmp_path, code=HANGS.replace("{", "{{").replace("}", "}}").replace('"loops"', '"x-tested"'))
    registry, diagnostics = load_policy_tree(tmp_path)
    assert registry is not None, diagnostics
    policies = "\n  - ".join(f"{{name: tested, version: v1, parameters: {{count: {n + 1}}}}}" for n in range(50))
    began = time.monotonic()
    loaded = Chains(registry, construction_seconds=0.2).read(chain(policies))
    assert time.monotonic() - began < 10
    assert sum("did not return" in str(one) for one in loaded.diagnostics) == 3
    assert sum("was not tried, because 3 others hang" in str(one) for one in loaded.diagnostics) == 47


@pytest.mark.parametrize(("written", "exact"), [("v1", "v1.2.0"), ("v1.0.0", "v1.0.0"), ("v2", "v2.0.0")])
def test_a_version_is_resolved_once_and_what_was_written_is_kept(registry: Registry, written: str, exact: str) -> None:
    (name,) = registry.names()
    text = f"version: v1\nroutes: [{{route_key: r, policies: [{{name: {name}, version: {written}}}]}}]\n"
    (entry,) = Chains(registry).good(text).routes[0].policies
    assert (entry.version, entry.written_version) == (exact, written)
    document = entry.as_document()
    assert (document["version"], document["requested_version"]) == (exact, written)


def test_a_chain_is_the_same_however_its_version_is_written(registry: Registry) -> None:
    (name,) = registry.names()
    text = f"version: v1\nroutes: [{{route_key: r, policies: [{{name: {name}, version: VERSION}}]}}]\n"
    hashes = [
        Chains(registry).good(text.replace("VERSION", written)).routes[0].content_hash()
        for written in ("v1", "v1.2.0", "v1.0.0")
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def guarded_registry(tmp_path: Path, *, authenticates: bool) -> Registry:
    directory = write_policy(tmp_path)
    if authenticates:
        manifest = directory / "policy.yaml"
        manifest.write_text(manifest.read_text() + "\nauthenticates: true\n")
    registry, diagnostics = load_policy_tree(tmp_path)
    assert registry is not None, diagnostics
    return registry


OPEN = """{name: tested, version: v1, failure_mode: open, condition: 'request.headers["x-a"] == "1"'}"""


def test_a_condition_that_a_request_can_make_fail_is_a_warning_where_that_opens_the_route(tmp_path: Path) -> None:
    loaded = Chains(guarded_registry(tmp_path, authenticates=True)).read(chain(OPEN))
    assert loaded.chains is not None, "a warning, no error"
    (warning,) = [one for one in loaded.diagnostics if one.rule is Rule.OPEN_CONDITION]
    assert (warning.severity, warning.rule, warning.path) == (
        "warning",
        "condition-opens-route",
        "/routes/0/policies/0/condition",
    )
    assert '"x-a" in request.headers && …' in str(warning)


@pytest.mark.parametrize(
    ("authenticates", "policy"),
    [
        (False, OPEN),
        (True, OPEN.replace("open", "closed")),
        (True, OPEN.replace("'request", """'"x-a" in request.headers && request""")),
        (True, "{name: tested, version: v1, failure_mode: open, condition: request.path == '/a'}"),
        (True, "{name: tested, version: v1, failure_mode: open}"),
    ],
)
def test_nothing_is_said_where_no_route_can_be_opened(tmp_path: Path, authenticates: bool, policy: str) -> None:
    loaded = Chains(guarded_registry(tmp_path, authenticates=authenticates)).read(chain(policy))
    assert loaded.chains is not None
    assert Rule.OPEN_CONDITION not in [one.rule for one in loaded.diagnostics]
