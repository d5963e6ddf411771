"""Which route a key meets, how long that is remembered, and limits of single routes (R-07, R-09, R-26)."""

from __future__ import annotations

import gzip

import pytest

from policy_engine.kernel import routes as module
from policy_engine.kernel.kernel import KernelOptions
from policy_engine.sdk import ImmediateResponse, Policy, Request, RequestMutation
from policy_engine.sdk.error_formats import ErrorFormat
from policy_engine.worker.chains.compiler import CompileError
from policy_engine.worker.chains.error_answers import ErrorAnswers, ErrorTemplate
from policy_engine.worker.chains.spec import ChainsSpec, RouteSpec, Unmapped
from testsupport.chains import Engine, entry
from testsupport.envoy_messages import body, header_changes, parse, request_headers


class Which(Policy):
    """Answers with its name, and with the key that it sees."""

    def __init__(self, parameters: dict[str, str]) -> None:
        self.name = parameters["name"]

    def on_request_headers(self, request: Request) -> ImmediateResponse:
        return ImmediateResponse(200, f"{self.name} {request.route}")


class Reads(Policy):
    def on_request_body(self, request: Request) -> RequestMutation:
        return RequestMutation(set_headers={"x-size": str(len(request.body or b""))})


def which(key: str) -> RouteSpec:
    return RouteSpec(key, (entry(Which, parameters={"name": key}),))


def engine_of(*routes: RouteSpec, options: KernelOptions | None = None) -> Engine:
    made = Engine([Which, Reads], options)
    made.activate(ChainsSpec(routes))
    return made


def met(engine: Engine, key: str) -> str:
    answer = parse(engine.session().receive(request_headers(key))).immediate_response
    text: str = answer.body.decode()
    return text


def test_the_own_key_is_before_patterns_and_the_longest_before_others() -> None:
    engine = engine_of(*map(which, ["*", "shop/*", "shop/orders", "shop/*/admin"]))
    for key, expected in [
        ("shop/orders", "shop/orders"),
        ("shop/x", "shop/*"),
        ("shop/x/admin", "shop/*/admin"),
        ("x", "*"),
        ("", "*"),
        ("shop/*", "shop/*"),
    ]:
        for _ in range(2):
            assert met(engine, key) == f"{expected} {key}"


def test_a_pattern_counts_its_requests_together() -> None:
    engine = engine_of(which("a/*"))
    for number in range(100):
        met(engine, f"a/{number}")
    assert engine.kernel.requests_by_route() == {"a/*": 100}


def test_a_flood_of_keys_leaves_no_more_than_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 100)
    engine = engine_of(which("a/*"))
    routes = engine.kernel.routes
    assert routes is not None
    for number in range(1_000):
        assert routes.get(f"a/{number}") is not None
        assert routes.get(f"b/{number}") is None
        assert len(routes._found) <= 100
    long = "a/" + "x" * 100_000
    assert routes.get(long) is not None
    assert long not in routes._found


def test_what_is_remembered_is_forgotten_with_the_configuration() -> None:
    engine = engine_of(which("*"))
    assert met(engine, "a/1") == "* a/1"
    engine.activate(ChainsSpec((which("*"), which("a/*"))))
    assert met(engine, "a/1") == "a/* a/1"
    engine.activate(ChainsSpec((which("b"),)))
    assert parse(engine.session().receive(request_headers("a/1"))).immediate_response.status.code == 500


def test_keys_that_nobody_could_tell_apart_are_refused() -> None:
    engine = Engine([Which])
    with pytest.raises(CompileError, match=r"'a/\*' and '\*/b' match the same keys|'\*/b' and 'a/\*'"):
        engine.activate(ChainsSpec((which("a/*"), which("*/b"))))


@pytest.mark.parametrize("pass_unmapped", [False, True])
def test_a_pattern_may_say_what_becomes_of_keys_without_a_chain(*, pass_unmapped: bool) -> None:
    engine = engine_of(
        which("*"),
        RouteSpec("old/*", unmapped=Unmapped.DENY),
        RouteSpec("static/*", unmapped=Unmapped.PASS),
        options=KernelOptions(pass_unmapped=pass_unmapped),
    )
    assert parse(engine.session().receive(request_headers("old/x"))).immediate_response.status.code == 500
    assert parse(engine.session().receive(request_headers("static/x"))).WhichOneof("response") == "request_headers"
    assert met(engine, "new") == "* new"
    assert engine.kernel.statistics.unmapped == 2


def test_keys_written_as_unmapped_are_denied_as_their_route_says() -> None:
    errors = ErrorAnswers(ErrorFormat.TEXT, (ErrorTemplate("gone from {{route}}", status="500"),))
    engine = engine_of(
        RouteSpec("old/*", unmapped=Unmapped.DENY, errors=errors),
        RouteSpec("older/*", unmapped=Unmapped.DENY),
        options=KernelOptions(errors=ErrorAnswers(ErrorFormat.OPENAI)),
    )
    assert met(engine, "old/x") == "gone from old/*"
    assert '"server_error"' in met(engine, "older/x")
    assert '"server_error"' in met(engine, "none")


def test_a_request_without_a_route_stays_one_beside_a_pattern_for_all() -> None:
    engine = engine_of(which("*"))
    message = request_headers(None, attributes={"source.address": "10.0.0.1:5"})
    assert parse(engine.session().receive(message)).immediate_response.status.code == 404


@pytest.mark.parametrize(("limit", "size", "status"), [(10, 11, 413), (10, 10, 0), (0, 1, 413), (None, 100, 0)])
def test_a_route_has_a_body_limit_of_its_own(limit: int | None, size: int, status: int) -> None:
    engine = engine_of(RouteSpec("r", (entry(Reads),), body_limit=limit), options=KernelOptions(body_limit=100))
    session = engine.session()
    session.receive(request_headers("r", end=False))
    reply = parse(session.receive(body("request", b"x" * size)))
    assert reply.immediate_response.status.code == status
    if not status:
        sets, _ = header_changes(reply.request_body.response.header_mutation)
        assert sets[0][:2] == ("x-size", str(size).encode())


def test_the_limit_of_a_route_holds_for_announced_and_decoded_bodies() -> None:
    engine = engine_of(RouteSpec("r", (entry(Reads),), body_limit=1000), options=KernelOptions(body_limit=10_000))
    announced = parse(engine.session().receive(request_headers("r", [("content-length", "1001")], end=False)))
    assert announced.immediate_response.status.code == 413
    session = engine.session()
    session.receive(request_headers("r", [("content-encoding", "gzip")], end=False))
    reply = parse(session.receive(body("request", gzip.compress(b"x" * 1001))))
    assert reply.immediate_response.status.code == 413
