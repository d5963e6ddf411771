"""llm-router through the test kit: which backend a model gets, what reaches it, and what happens while one fails."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from policy_engine.sdk import ImmediateResponse, ParameterError, Policy, Request
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run

FAST = {
    "model": "fast",
    "targets": [{"backend": "a", "model": "m-a", "weight": 80}, {"backend": "b", "model": "m-b", "weight": 20}],
    "fallbacks": [{"backend": "c", "model": "m-c"}, {"backend": "d"}],
}
ANY = {"model": "gpt-*", "targets": [{"backend": "a"}]}


def policy(*routes: dict[str, Any], **parameters: Any) -> Policy:
    return load_policy(__file__, {"routes": list(routes) or [FAST, ANY], **parameters})


def ask(model: Any = "fast", path: str = "/v1/chat/completions", **headers: str) -> Request:
    document = {"model": model, "messages": []} if model is not None else {"contents": []}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return request("POST", path, headers=named, body=json.dumps(document).encode())


def send(subject: Policy, asked: Request | None = None, status: int = 200, **headers: str) -> Outcome:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return run(subject, asked or ask(), response(status, named))


def backend(outcome: Outcome) -> str | None:
    return outcome.request.headers.get("x-llm-backend")


def test_an_alias_gets_a_backend_and_the_model_there() -> None:
    outcome = send(policy())
    assert (backend(outcome), json.loads(outcome.request.body or b"")["model"]) in (("a", "m-a"), ("b", "m-b"))
    assert outcome.metadata["llm_router"]["asked"] == "fast"


def test_a_model_that_keeps_its_name_goes_on_byte_for_byte() -> None:
    asked = request("POST", "/", body=b'{ "model": "gpt-4", "messages": [] }')
    outcome = send(policy(), asked)
    assert (backend(outcome), outcome.request.body) == ("a", asked.body)


def test_the_weights_share_the_requests() -> None:
    subject = policy()
    found = Counter(backend(send(subject)) for _ in range(400))
    assert set(found) == {"a", "b"}
    assert 250 < found["a"] < 380


def test_one_key_gets_one_target() -> None:
    subject = policy(key='request.headers["x-user"]')
    for user in ("ann", "bob", "eve"):
        assert len({backend(send(subject, ask(x_user=user))) for _ in range(20)}) == 1
    assert len({backend(send(subject, ask(x_user=str(number)))) for number in range(60)}) == 2
    assert len({backend(send(subject, ask())) for _ in range(100)}) == 2, "without a value, each by itself"


def test_a_target_with_weight_0_gets_none() -> None:
    route = {"model": "*", "targets": [{"backend": "a", "weight": 0}, {"backend": "b"}]}
    assert {backend(send(policy(route))) for _ in range(30)} == {"b"}


@pytest.mark.parametrize("header", ["x-llm-backend", "x-other"])
def test_a_client_does_not_choose_the_backend(header: str) -> None:
    subject = policy(unknown_model="pass", header=header)
    for asked in (ask("none", **{header: "root"}), request("GET", "/v1/models", headers={header: "root"})):
        assert run(subject, asked).request.headers.get(header) is None
    assert run(subject, ask("gpt-4", **{header: "root"})).request.headers.get_all(header) == ("a",)


def test_while_targets_fail_others_are_asked_then_the_fallbacks_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = policy()
    now = 0.0
    health: Any = subject._health  # type: ignore[attr-defined]
    monkeypatch.setattr(health, "_clock", lambda: now)
    failed = set()
    for _ in range(2):
        failed.add(backend(send(subject, status=503)))
    assert failed == {"a", "b"}
    assert backend(send(subject, status=429)) == "c"
    assert backend(send(subject, status=500)) == "d"
    assert backend(send(subject, status=503)) in ("a", "b"), "nothing works: one is asked all the same"
    now = 31.0
    assert {backend(send(subject)) for _ in range(60)} == {"a", "b"}


def test_an_answer_says_how_long_it_wants_to_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = policy({**FAST, "targets": FAST["targets"][:1]})
    now = 0.0
    monkeypatch.setattr(subject._health, "_clock", lambda: now)  # type: ignore[attr-defined]
    send(subject, status=429, retry_after="120")
    now = 119.0
    assert backend(send(subject)) == "c"
    now = 121.0
    assert backend(send(subject)) == "a"
    send(subject, status=429, retry_after="999999")
    now = 121.0 + 3601
    assert backend(send(subject)) == "a"
    send(subject, status=429, retry_after="Wed, 21 Oct 2099 07:28:00 GMT")
    now += 31
    assert backend(send(subject)) == "a"


def test_failures_in_a_row_are_counted_and_a_success_begins_anew() -> None:
    subject = policy({**FAST, "targets": FAST["targets"][:1]}, failures=2)
    assert [backend(send(subject, status=status)) for status in (503, 200, 503, 503, 200)] == ["a", "a", "a", "a", "c"]


def test_what_is_the_clients_fault_is_none_of_the_targets() -> None:
    class Denies(Policy):
        def on_request_body(self, request: Request) -> ImmediateResponse:
            return ImmediateResponse(503)

    subject = policy({**FAST, "targets": FAST["targets"][:1]})
    assert [backend(send(subject, status=status)) for status in (400, 401, 404, 200)] == ["a"] * 4
    run([subject, Denies({})], ask())
    assert backend(send(subject)) == "a"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1beta/models/fast:generateContent?alt=sse", "/v1beta/models/m%2Fx:generateContent?alt=sse"),
        ("/openai/deployments/fast/chat/completions", "/openai/deployments/m%2Fx/chat/completions"),
        ("/openai/%64eployments/f%61st/chat?a=/models/b", "/openai/%64eployments/m%2Fx/chat?a=/models/b"),
        ("/openai/Deployments//fast/chat", "/openai/Deployments//m%2Fx/chat"),
        ("/v1beta/models/fast%3AgenerateContent", "/v1beta/models/m%2Fx:generateContent"),
    ],
)
def test_a_model_in_the_path_is_changed_there(path: str, expected: str) -> None:
    outcome = run(policy({"model": "fast", "targets": [{"backend": "a", "model": "m/x"}]}), ask(None, path))
    assert outcome.request.target == expected


def test_a_model_that_no_route_is_for_is_refused_or_passes() -> None:
    outcome = run(policy(), ask("none"))
    assert (outcome.status, json.loads(outcome.body or b"")["error"]["code"]) == (404, "model_not_found")
    assert run(policy(unknown_model="pass"), ask("none")).reached_upstream
    assert run(policy(), ask("FAST")).status == 404


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"model":"fast","model":"gpt-4"}', b'{"model":["fast"]}'])
def test_a_request_that_can_be_read_in_two_ways_is_refused(body: bytes) -> None:
    assert run(policy(), request("POST", "/", body=body)).status == 400


@pytest.mark.filterwarnings("error::policy_engine.sdk.testing.HeldTimeWarning")
def test_large_requests_hold_up_nobody() -> None:
    body = json.dumps({"model": "fast", "messages": [{"role": "user", "content": "x"}] * 30_000}).encode()
    outcome = run(policy(), request("POST", "/", body=body))
    assert len(json.loads(outcome.request.body or b"")["messages"]) == 30_000


@pytest.mark.parametrize(
    ("parameters", "path", "said"),
    [
        ({"header": "x y"}, "/header", ""),
        ({"key": "request.hedders"}, "/key", "request.headers"),
        (
            {"routes": [{"model": "a", "targets": [{"backend": "a", "weight": 0}]}]},
            "/routes/0/targets",
            "weight above 0",
        ),
        ({"routes": [{"model": "a", "targets": [{"backend": "a\r\nb"}]}]}, "/routes/0/targets/0/backend", ""),
        ({"routes": []}, "/routes", ""),
        ({"cooldown": "1 day"}, "/cooldown", ""),
    ],
)
def test_wrong_parameters_are_refused_with_their_place(parameters: dict[str, Any], path: str, said: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, {"routes": [FAST], **parameters})
    assert path in (caught.value.path or str(caught.value))
    assert said in str(caught.value)
