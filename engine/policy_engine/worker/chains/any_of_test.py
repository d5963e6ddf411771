"""Groups of alternatives: one that lets a request in is enough, and what a client gets when none does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from policy_engine.sdk import ImmediateResponse, Policy, Request, RequestMutation, Response, ResponseMutation
from policy_engine.worker.chains.any_of import one_denial
from policy_engine.worker.chains.spec import AnyOf, Mode, PolicySpec, Share
from policy_engine.worker.chains.statistics import Wanted
from testsupport.chains import Engine, engine, entry, settle
from testsupport.envoy_messages import header_changes, parse, request_headers, response_headers


class Key(Policy):
    """Lets in who shows its header with `good`; `busy` fails, `later` waits, `forbidden` is known and refused."""

    def __init__(self, parameters: Any) -> None:
        self.header = parameters["header"]
        self.asked = 0

    def on_request_headers(self, request: Request) -> Any:
        self.asked += 1
        shown = request.headers.get(self.header)
        if shown == "later":
            return self._later()
        if shown == "busy":
            raise RuntimeError("no store")
        if shown == "forbidden":
            return ImmediateResponse(403, "known", details=f"{self.header}_forbidden")
        if shown != "good":
            challenge = {"WWW-Authenticate": f'Key realm="{self.header}"'}
            return ImmediateResponse(401, f"{self.header} please", challenge, details=f"{self.header}_missing")
        return RequestMutation(set_headers={"x-by": self.header})

    async def _later(self) -> None:
        await asyncio.sleep(0)

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(append_headers=[("x-was", self.header)])


class After(Policy):
    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(set_headers={"x-after": "1"})


GROUP = AnyOf(0)


def way(header: str, group: AnyOf = GROUP, **more: Any) -> PolicySpec:
    return entry(Key, parameters={"header": header}, any_of=group, **more)


def made_of(*entries: PolicySpec) -> Engine:
    return engine(*entries, entry(After), classes=[Key, After])


def sent(made: Engine, **shown: str) -> tuple[Any, Any]:
    """The reply to a request with these headers, and to its response."""
    session = made.session()
    pairs = [(name.replace("_", "-"), value) for name, value in shown.items()]
    reply = parse(settle(session.receive(request_headers("r", pairs))))
    if reply.WhichOneof("response") == "immediate_response":
        session.close()
        return reply.immediate_response, None
    answer = parse(settle(session.receive(response_headers(200, end=True))))
    session.close()
    return reply, answer


def changed(mutation: Any) -> dict[str, bytes]:
    return {name: value for name, value, _ in header_changes(mutation)[0]}


@pytest.mark.parametrize(
    ("shown", "by"),
    [
        ({"a": "good"}, b"a"),
        ({"b": "good"}, b"b"),
        ({"c": "good"}, b"c"),
        ({"a": "good", "b": "good"}, b"a"),
        ({"a": "wrong", "b": "good"}, b"b"),
        ({"a": "busy", "b": "forbidden", "c": "good"}, b"c"),
    ],
)
def test_one_is_enough_and_takes_part_alone(shown: dict[str, str], by: bytes) -> None:
    request, response = sent(made_of(way("a"), way("b"), way("c")), **shown)
    assert changed(request.request_headers.response.header_mutation) == {"x-by": by, "x-after": b"1"}
    assert changed(response.response_headers.response.header_mutation) == {"x-was": by}


def test_one_may_wait() -> None:
    request, response = sent(made_of(way("a"), way("b")), b="later")
    assert changed(request.request_headers.response.header_mutation) == {"x-after": b"1"}
    assert changed(response.response_headers.response.header_mutation) == {"x-was": b"b"}


def test_those_after_the_one_that_let_in_are_not_asked() -> None:
    made = made_of(way("a"), way("b"))
    sent(made, a="good")
    chain = made.kernel.snapshot.chains["r"]  # type: ignore[union-attr] # it is active
    assert [getattr(one, "asked", None) for one in chain.instances[:2]] == [1, 0]


def test_one_denial_names_every_way_in_their_order() -> None:
    denial, _ = sent(made_of(way("a"), way("b")))
    assert denial.status.code == 401
    sets, _ = header_changes(denial.headers)
    assert [(name, value) for name, value, _ in sets] == [
        ("www-authenticate", b'Key realm="a"'),
        ("www-authenticate", b'Key realm="b"'),
    ]
    assert denial.details == "any_of:a_missing+b_missing"


@pytest.mark.parametrize(("shown", "status"), [({"b": "forbidden"}, 403), ({"a": "busy"}, 500), ({"b": "busy"}, 500)])
def test_who_was_recognised_or_could_not_be_looked_at_is_told_so(shown: dict[str, str], status: int) -> None:
    made = made_of(way("a"), way("b"))
    denial, _ = sent(made, **shown)
    assert denial.status.code == status
    assert made.compiler.statistics["r", "any_of", ""].short_circuits == 1
    assert made.compiler.statistics["r", "key", "v1.0.0"].short_circuits == 0
    challenges = [value for name, value, _ in header_changes(denial.headers)[0] if name == "www-authenticate"]
    assert challenges == ([b'Key realm="a"'] if status == 403 else []), "another way may still be open"


def test_an_alternative_may_have_a_condition() -> None:
    made = made_of(way("a", condition='request.path == "/a"'), way("b", condition='request.path == "/b"'))
    denial, _ = sent(made, a="good", b="good")
    assert (denial.status.code, denial.details) == (401, "any_of:no_alternative"), "none was asked: nobody let it in"


def test_a_condition_that_fails_closes_its_way_alone() -> None:
    made = made_of(way("a", condition='request.headers["x"] == "1"'), way("b"))
    assert changed(sent(made, b="good")[0].request_headers.response.header_mutation)["x-by"] == b"b"
    assert sent(made, a="good")[0].status.code == 500


class Forgets(Policy):
    """Takes what the group's condition asks for out of the metadata, and refuses."""

    def on_request_headers(self, request: Request) -> ImmediateResponse:
        request.metadata["seen"] = True
        return ImmediateResponse(401)


def test_the_groups_condition_is_decided_once() -> None:
    group = AnyOf(0, condition="!has(metadata.seen)")
    made = engine(entry(Forgets, any_of=group), entry(After), classes=[Forgets, After])
    assert sent(made)[0].status.code == 401


def test_a_group_may_be_left_out_by_its_condition_and_its_share() -> None:
    for group in (AnyOf(0, condition='request.path == "/no"'), AnyOf(0, share=Share(0, 0))):
        request, _ = sent(made_of(way("a", group), way("b", group)))
        assert changed(request.request_headers.response.header_mutation) == {"x-after": b"1"}
    whole = AnyOf(0, share=Share(0, 1_000_000))
    assert sent(made_of(way("a", whole), way("b", whole)))[0].status.code == 401


def test_a_groups_condition_that_fails_denies() -> None:
    group = AnyOf(0, condition='request.headers["x"] == "1"')
    assert sent(made_of(way("a", group), way("b", group)), a="good")[0].status.code == 500


def test_two_groups_are_asked_one_after_the_other() -> None:
    other = AnyOf(1)
    made = made_of(way("a"), way("b"), way("c", other), way("d", other))
    assert sent(made, a="good")[0].details == "any_of:c_missing+d_missing"
    assert sent(made, c="good")[0].details == "any_of:a_missing+b_missing"
    request, _ = sent(made, b="good", d="good")
    assert changed(request.request_headers.response.header_mutation)["x-by"] == b"d"


def test_a_group_in_shadow_tells_what_it_would_have_answered() -> None:
    made = made_of(way("a", mode=Mode.SHADOW), way("b", mode=Mode.SHADOW))
    request, response = sent(made)
    assert changed(request.request_headers.response.header_mutation) == {"x-after": b"1"}
    assert response.WhichOneof("response") == "response_headers"
    wanted = made.compiler.statistics["r", "any_of", ""].wanted
    assert wanted == {Wanted.ANSWER: 1, Wanted.CHANGE: 0, Wanted.FAILURE: 0}
    request, _ = sent(made, b="good")
    assert changed(request.request_headers.response.header_mutation) == {"x-after": b"1"}
    assert made.compiler.statistics["r", "any_of", ""].wanted == wanted


class Idle(Key):
    """Takes no part at the request's headers."""

    idle_phases = ("request_headers",)


def test_an_alternative_that_takes_no_part_lets_nobody_in() -> None:
    made = engine(entry(Idle, parameters={"header": "a"}, any_of=GROUP), entry(After), classes=[Idle, After])
    assert sent(made, a="good")[0].status.code == 401


def test_every_entry_of_a_compiled_chain_has_a_place_of_its_own() -> None:
    made = made_of(entry(After), way("a"), way("b"), entry(After, enabled=False), entry(After), way("c", AnyOf(1)))
    chain = made.kernel.snapshot.chains["r"]  # type: ignore[union-attr] # it is active
    assert [one.entry for one in chain.request_headers] == list(range(8))


def test_entries_side_by_side_decide_for_themselves() -> None:
    yes, no = 'request.path == "/"', 'request.path == "/no"'
    made = engine(
        *(entry(After, condition=one) for one in (yes, no)),
        entry(Key, parameters={"header": "a"}, condition=no),
        classes=[After, Key],
    )
    request, _ = sent(made)
    assert changed(request.request_headers.response.header_mutation) == {"x-after": b"1"}
    assert made.compiler.statistics["r", "after", "v1.0.0"].skipped == 1


def test_challenges_of_every_form_are_kept_once() -> None:
    denial = one_denial(
        [
            ImmediateResponse(401, headers={"WWW-Authenticate": b"A"}, append_headers=[("www-authenticate", "B")]),
            ImmediateResponse(401, headers={"x-other": "1"}, append_headers=[("www-authenticate", "A")]),
        ]
    )
    assert denial.append_headers == [("www-authenticate", "A"), ("www-authenticate", "B")]
    assert denial.headers == {}
