"""What Envoy, engine and upstream do together, as test cases that hold however the three were started.

`processes_test.py` and `containers_test.py` run them all; a case must not know which it is in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

from integration.harness.chain_file import Document, chain, chains, policy
from integration.harness.client import Connection, Reply
from integration.harness.envoy_binary import envoy_version
from integration.harness.envoy_config import Route
from integration.harness.exchange import Answer, HeaderList
from integration.harness.load import Load
from integration.harness.stack import Stack
from integration.harness.tokens import Issuer

ROUTES = [
    Route(prefix="/public", name="public"),
    Route(prefix="/private", name="private"),
    Route(prefix="/staff", name="staff"),
    Route(prefix="/partner", name="partner"),
    Route(prefix="/ordered", name="ordered"),
    Route(prefix="/conditional", name="conditional"),
    Route(prefix="/open", name="open"),
    Route(prefix="/guarded", name="guarded"),
    Route(prefix="/unmapped", name="publik"),
]
"""What Envoy routes; `publik` is in no chain file."""

BAD_TOKENS: dict[str, Callable[[Issuer], str]] = {
    "wrong key": Issuer.wrong_key,
    "expired": Issuer.expired,
    "alg none": Issuer.unsigned,
    "HMAC keyed with the public key": Issuer.hmac_confusion,
    "changed after signing": Issuer.tampered,
    "other audience": lambda issuer: issuer.token(aud="billing"),
    "other issuer": lambda issuer: issuer.token(iss="https://elsewhere.test"),
    "not yet valid": lambda issuer: issuer.token(nbf=issuer.claims()["exp"] + 3600),
    "not a token": lambda issuer: "x.y",
    "three empty parts": lambda issuer: "..",
}


def set_header(gateway: str) -> Document:
    """Return the public route's policy; `gateway` shows which version of the file is active."""
    return policy(
        "set-header",
        "v1.0.0",
        {
            "request": {"set": {"x-gateway": gateway}},
            "response": {"set": {"x-served-by": gateway}, "remove": ["x-upstream"]},
        },
    )


def append(name: str) -> Document:
    """Return a policy that leaves `name` in a list header of both directions, in the order policies ran."""
    return policy(
        "set-header", "v1.0.0", {"request": {"append": {"x-order": name}}, "response": {"append": {"x-order": name}}}
    )


def jwt_parameters(url: str, ca_file: str) -> Document:
    """Return what both versions of jwt-validation have in common; `ca_file` is the path the engine sees."""
    # A short interval between fetches, since the cases rotate keys.
    jwks = {"url": url, "ca_file": ca_file, "min_refresh_interval": "100ms"}
    return {"issuer": "https://issuer.test", "audiences": ["orders"], "jwks": jwks}


def document(jwt_parameters: Document, *, gateway: str = "one") -> Document:
    """Return the chain file that every case begins with."""
    return chains(
        chain("public", set_header(gateway)),
        chain(
            "private",
            policy("jwt-validation", "v1.0.0", {**jwt_parameters, "subject_header": "x-user"}),
            append("after-jwt"),
        ),
        chain("staff", policy("jwt-validation", "v2.0.0", {**jwt_parameters, **STAFF_RULES})),
        chain("partner", policy("api-key-validation", "v1", {"keys": [API_KEY], "client_header": "x-client"})),
        chain("ordered", append("first"), append("second")),
        chain("conditional", {**append("posted"), "condition": "request.method == 'POST'"}),
        chain("guarded", GUARD),
        chain("open"),
    )


GUARD = policy("llm-prompt-guard", "v1.0.0", {"prompt": {"deny_words": ["forbidden"]}}, timeout="20s")
"""Reads whole bodies, large ones in a helper process."""


def prompt(words: str) -> bytes:
    """Return a request that is large enough to be read in a helper process."""
    return json.dumps({"messages": [{"role": "user", "content": "a " * 50_000 + words}]}).encode()


API_KEY = {"client": "mobile", "sha256": "477739a1d440eb56e7a2aa8b2ae592b43568448c046c22bc2d63bc36009cbc48"}
API_KEY_TEXT = "mobile-key-1"
STAFF_RULES: Document = {
    "claim_rules": [{"claim": "role", "one_of": ["staff", "admin"]}],
    "claims_to_headers": [{"claim": "sub", "header": "x-user"}, {"claim": "role", "header": "x-role"}],
}


OFFLOADED = "policy_engine_offload_calls_total"


class EndToEnd:
    """The cases; a subclass's module provides the fixture `running`, a started Stack with ROUTES and `document`."""

    @pytest.fixture
    def stack(self, running: Stack) -> Iterator[Stack]:
        """Give each case a quiet upstream, and the chain file as it was to the next one."""
        running.upstream.reset()
        before = running.chains.path.read_text()
        yield running
        if running.chains.path.read_text() != before:
            running.chains.write_text(before)
            running.eventually(lambda: gateway(running) == "one", "back on the first chain file")

    def test_envoy_is_the_version_the_product_is_for(self, stack: Stack) -> None:
        assert stack.envoy.version() == envoy_version()

    def test_public_route_gets_its_headers_in_both_directions(self, stack: Stack) -> None:
        reply = stack.send("/public/a?b=c")
        assert (reply.status, reply.values("x-served-by"), reply.values("x-upstream")) == (200, ["one"], [])
        assert stack.upstream.last().values("x-gateway") == ["one"]
        assert stack.upstream.last().target == "/public/a?b=c"

    def test_client_cannot_choose_the_header_that_a_policy_sets(self, stack: Stack) -> None:
        stack.send("/public", headers=[("x-gateway", "mine"), ("X-Gateway", "mine too")])
        assert stack.upstream.last().values("x-gateway") == ["one"]

    def test_private_route_refuses_a_missing_token(self, stack: Stack) -> None:
        refuses(stack, 401, "/private")

    @pytest.mark.parametrize("kind", BAD_TOKENS)
    def test_private_route_refuses_a_bad_token(self, stack: Stack, kind: str) -> None:
        refuses(stack, 401, "/private", token=BAD_TOKENS[kind](stack.issuer))

    @pytest.mark.parametrize("kind", BAD_TOKENS)
    def test_second_version_refuses_the_same(self, stack: Stack, kind: str) -> None:
        refuses(stack, 401, "/staff", token=BAD_TOKENS[kind](stack.issuer))

    def test_good_token_passes_with_its_claims_and_later_policies_run(self, stack: Stack) -> None:
        reply = stack.send("/private", token=stack.issuer.token(), headers=[("x-user", "mallory")])
        assert reply.status == 200
        assert stack.upstream.last().values("x-user") == ["alice"]
        assert stack.upstream.last().values("x-order") == ["after-jwt"]

    def test_both_versions_of_a_policy_serve_at_once(self, stack: Stack) -> None:
        staff, visitor = stack.issuer.token(role="staff"), stack.issuer.token(role="visitor")
        with Load(stack.envoy.port, lambda connection: _with_token(connection, "/private", visitor), _status) as first:
            for _ in range(20):
                assert stack.send("/staff", token=visitor).status == 403
                assert stack.send("/staff", token=staff).status == 200
            first.wait_for("200")
        assert set(first.outcomes) == {"200"}, first.outcomes
        accepted = [request for request in stack.upstream.received if request.target == "/staff"]
        assert [(request.header("x-user"), request.header("x-role")) for request in accepted] == [
            ("alice", "staff")
        ] * 20

    def test_api_key_is_asked_for_checked_and_not_passed_on(self, stack: Stack) -> None:
        refuses(stack, 401, "/partner")
        refuses(stack, 403, "/partner", headers=[("x-api-key", "guess")])
        assert stack.send("/partner", headers=[("x-api-key", API_KEY_TEXT)]).status == 200
        assert stack.upstream.last().values("x-client") == ["mobile"]
        assert stack.upstream.last().values("x-api-key") == []

    def test_requests_run_in_order_and_responses_in_reverse(self, stack: Stack) -> None:
        reply = stack.send("/ordered")
        assert ",".join(stack.upstream.last().values("x-order")) == "first,second"
        assert ",".join(reply.values("x-order")) == "second,first"

    def test_condition_decides_for_both_directions(self, stack: Stack) -> None:
        reply = stack.send("/conditional")
        assert (stack.upstream.last().values("x-order"), reply.values("x-order")) == ([], [])
        reply = stack.send("/conditional", method="POST", body=b"data")
        assert (stack.upstream.last().values("x-order"), reply.values("x-order")) == (["posted"], ["posted"])
        assert bytes(stack.upstream.last().body) == b"data"

    def test_large_bodies_are_read_in_helper_processes(self, stack: Stack) -> None:
        """They are started with what there is: no file can be written, and nobody has a home."""
        headers = [("content-type", "application/json")]
        for words, status in (("well known", 200), ("forbidden", 403)):
            reply = stack.send("/guarded", method="POST", headers=headers, body=prompt(words))
            assert reply.status == status
        calls = {dict(labels)["outcome"]: count for labels, count in stack.admin.samples(OFFLOADED).items()}
        assert calls.pop("done") == 2
        assert set(calls.values()) == {0}

    def test_empty_chain_passes_unchanged(self, stack: Stack) -> None:
        reply = stack.send("/open", headers=[("x-one", "1")])
        assert (reply.status, reply.header("x-upstream")) == (200, "echo")
        assert stack.upstream.last().values("x-one") == ["1"]

    def test_bodies_that_no_policy_needs_pass_unchanged(self, stack: Stack) -> None:
        body = bytes(range(256)) * 1200
        stack.upstream.answer_with(lambda request: Answer.of(bytes(request.body)))
        reply = stack.send("/public", method="POST", body=iter([body[:1000], body[1000:]]))
        assert (bytes(stack.upstream.last().body) == body, reply.body == body) == (True, True)
        assert reply.header("x-served-by") == "one"

    def test_event_stream_is_not_held_back(self, stack: Stack) -> None:
        stack.upstream.answer_with(Answer.events(["a", "b", "c"], interval_s=0.2))
        reply = stack.send("/public")
        assert reply.body == b"data: a\n\ndata: b\n\ndata: c\n\n"
        assert reply.chunks[-1][0] - reply.chunks[0][0] > 0.2

    def test_unmapped_route_is_denied_and_the_log_names_the_nearest(self, stack: Stack) -> None:
        new_log = stack.new_log()
        refuses(stack, 500, "/unmapped")
        stack.eventually(lambda: "publik" in new_log() and "public" in new_log(), "logged with the nearest keys")

    def test_edit_takes_effect_without_restart_or_failed_request(self, stack: Stack) -> None:
        engine, envoy = stack.engine.pid, stack.proxy.pid
        with Load(stack.envoy.port, lambda connection: connection.send("GET", "/public"), served_by) as load:
            load.wait_for("200 one", 20)
            text = stack.chains.path.read_text()
            stack.chains.write_text(text.replace(": one", ": two"))
            load.wait_for("200 two", 50)
        assert set(load.outcomes) == {"200 one", "200 two"}, load.outcomes
        assert (stack.engine.running(), stack.proxy.running()) == (True, True)
        assert (stack.engine.pid, stack.proxy.pid) == (engine, envoy)

    @pytest.mark.parametrize(
        "kind", ["not YAML", "unknown key", "wrong parameter", "unknown version", "wrong condition"]
    )
    def test_broken_file_changes_nothing_and_is_reported(self, stack: Stack, kind: str) -> None:
        good = stack.chains.path.read_text().replace(": one", ": broken")
        text, reported = BROKEN[kind](good)
        new_log, rejected = stack.new_log(), stack.admin.history()["rejected"]
        with Load(stack.envoy.port, lambda connection: connection.send("GET", "/public"), served_by) as load:
            stack.chains.write_text(text)
            stack.eventually(lambda: reported in new_log(), f"reported with {reported!r}")
            load.wait_for("200 one", 20)
        assert set(load.outcomes) == {"200 one"}, load.outcomes
        assert re.search(r"chains\.yaml:\d+:\d+: ", new_log())
        history = stack.admin.history()
        assert history["rejected"] == rejected + 1
        assert any(reported in problem for problem in history["last_rejection"]["problems"])
        refuses(stack, 401, "/private")

    def test_key_rotation_is_followed(self, stack: Stack) -> None:
        old = stack.issuer.token()
        stack.issuer.rotate()
        assert stack.send("/private", token=stack.issuer.token()).status == 200
        refuses(stack, 401, "/private", token=old)


BROKEN: dict[str, Callable[[str], tuple[str, str]]] = {
    "not YAML": lambda text: (text + "\n  - [", "not valid YAML"),
    "unknown key": lambda text: (text.replace("policies:", "polices:", 1), "policies"),
    "wrong parameter": lambda text: (text.replace("remove:", "removed:", 1), "removed"),
    "unknown version": lambda text: (text.replace("version: v1.0.0", "version: v7.0.0", 1), "v7.0.0"),
    "wrong condition": lambda text: (text.replace("request.method", "request.methd", 1), "methd"),
}
"""How each file is broken, and words that the report of it must have."""


def refuses(stack: Stack, status: int, target: str, *, headers: HeaderList = (), token: str | None = None) -> None:
    """Assert that a request is refused with `status` and does not reach the upstream."""
    reached = len(stack.upstream.received)
    reply = stack.send(target, headers=headers, token=token)
    new = [request.target for request in stack.upstream.received[reached:]]
    assert (reply.status, new, reply.header("x-upstream")) == (status, [], None)


def _with_token(connection: Connection, target: str, token: str) -> Reply:
    return connection.send("GET", target, headers=[("authorization", f"Bearer {token}")])


def _status(reply: Reply) -> str:
    return str(reply.status)


def served_by(reply: Reply) -> str:
    """Classify a reply of the public route by its status and by which chain file made it."""
    return f"{reply.status} {reply.header('x-served-by')}"


def gateway(stack: Stack) -> str | None:
    """Return which chain file the public route runs on."""
    with Connection(stack.envoy.port) as connection:
        return connection.send("GET", "/public").header("x-served-by")
