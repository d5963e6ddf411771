"""cache in process, through the test kit: what is stored, for whom, for how long, and how it is answered."""

from __future__ import annotations

import gzip
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import (
    Headers,
    ImmediateResponse,
    ParameterError,
    Policy,
    RequestMutation,
    ResponseMutation,
    steady_clock,
)
from policy_engine.sdk.testing import Outcome, load_policy, policy_class, request, response, run

NOW = 1_700_000_000.0
JSON = {"content-type": "application/json"}


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(steady_clock, "steady_time", made)
    return made


def policy(**parameters: Any) -> Policy:
    return load_policy(__file__, {"status_header": "x-cache", **parameters})


def fetch(
    subject: Policy | list[Policy],
    target: str = "/a",
    *,
    method: str = "GET",
    asks: dict[str, Any] | None = None,
    says: dict[str, Any] | None = None,
    status: int = 200,
    body: bytes = b"one",
    **values: Any,
) -> Outcome:
    """Send a request; the upstream answers with `says`, fresh for a minute unless it says otherwise."""
    headers = {"cache-control": "max-age=60", **JSON, **(says or {})}
    upstream = response(status, {name: value for name, value in headers.items() if value is not None}, body)
    return run(subject, request(method, target, asks, **values), upstream)


def hit(subject: Policy, target: str = "/a", **values: Any) -> bool:
    return not fetch(subject, target, **values).reached_upstream


# -- hits ----------------------------------------------------------------------------------------------------------------


def test_a_hit_is_the_stored_response_with_its_age(clock: Clock) -> None:
    subject = policy()
    first = fetch(subject, says={"etag": '"v1"', "link": ["</a>", "</b>"], "x-request-id": "r1"})
    assert first.response.headers["x-cache"] == "miss"
    clock.now += 7.9
    again = fetch(subject, body=b"two")
    assert not again.reached_upstream
    assert (again.status, again.body) == (200, b"one")
    assert again.response.headers.get_all("link") == ("</a>", "</b>")
    told = {name: again.response.headers.get(name) for name in ("age", "x-cache", "content-type")}
    assert told == {"age": "7", "x-cache": "hit", "content-type": "application/json"}
    assert again.response.headers.get_all("x-request-id") == ("test-request",)


def test_it_is_fetched_anew_when_it_is_stale(clock: Clock) -> None:
    subject = policy()
    fetch(subject)
    clock.now += 59.9
    assert hit(subject)
    clock.now += 0.1
    assert fetch(subject, body=b"two").body == b"two"
    assert fetch(subject).body == b"two"


def test_a_step_of_the_time_of_day_makes_nothing_younger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real clocks
    subject = policy()
    fetch(subject, says={"cache-control": "max-age=60", "age": "59"})
    now, monotonic = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    assert hit(subject)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic + 2)
    assert not hit(subject)


def test_head_is_answered_from_a_get_but_fills_nothing() -> None:
    subject = policy()
    assert not hit(subject, method="HEAD")
    assert not hit(subject, method="HEAD")
    assert not hit(subject)
    assert hit(subject, method="HEAD")


@pytest.mark.parametrize(
    "value", ["example.test.", "EXAMPLE.test.:443", "example.test:443", "example.test:", "example.test:0443"]
)
def test_spellings_of_a_host_are_one_host(value: str) -> None:
    subject = policy()
    fetch(subject, authority=value)
    assert not hit(subject, authority="example.test"), "what the upstream made of another spelling is not for all"
    assert hit(subject, authority=value)
    fetch(subject, method="POST", authority=value)
    assert not hit(subject, authority="example.test"), "a change is one, whichever way the host is written"


@pytest.mark.parametrize("value", ["example.test", "EXAMPLE.test"])
def test_authority_in_any_case(value: str) -> None:
    subject = policy()
    fetch(subject, authority="Example.Test")
    assert hit(subject, authority=value)


@pytest.mark.parametrize(
    "other",
    [
        {"target": "/a?"},
        {"target": "/a?x=1"},
        {"target": "/A"},
        {"authority": "evil.test"},
        {"authority": "api.example.test:8443"},
        {"scheme": "http"},
        {"route": "other"},
        {"asks": {"x-tenant": "b"}},
        {"asks": {"x-tenant": ["a", "a"]}},
    ],
)
def test_other_keys_are_other_responses(other: dict[str, Any]) -> None:
    subject = policy(key_headers=["X-Tenant"])
    same: dict[str, Any] = {"target": "/a", "asks": {"x-tenant": "a"}}
    fetch(subject, **same)
    assert hit(subject, **same)
    assert not hit(subject, **{**same, **other})


# -- what may be stored --------------------------------------------------------------------------------------------------

FRESH_BY = formatdate(NOW + 60, usegmt=True)
STALE_BY = formatdate(NOW - 1, usegmt=True)


@pytest.mark.parametrize(
    "says",
    [
        {"cache-control": "max-age=60"},
        {"cache-control": "MAX-AGE=60"},
        {"cache-control": 'max-age="60"'},
        {"cache-control": "max-age=0, s-maxage=60"},
        {"cache-control": 'public, x-unknown="a,b", max-age=60'},
        {"cache-control": ["public", "max-age=60"]},
        {"cache-control": "max-age=99999999999999999999"},
        {"cache-control": "max-age=60, must-revalidate"},
        {"cache-control": None, "expires": FRESH_BY},
        {"cache-control": "max-age=60", "expires": "0"},
        {"vary": "accept, Accept-Language"},
        {"age": "59"},
        {"date": formatdate(NOW - 59, usegmt=True)},
    ],
)
def test_stored(says: dict[str, Any]) -> None:
    subject = policy()
    fetch(subject, says=says)
    assert hit(subject)


@pytest.mark.parametrize(
    "says",
    [
        {"cache-control": None},
        {"cache-control": "no-store, max-age=60"},
        {"cache-control": "private, max-age=60"},
        {"cache-control": 'private="x-name", max-age=60'},
        {"cache-control": "no-cache, max-age=60"},
        {"cache-control": 'No-Cache="set-cookie", max-age=60'},
        {"cache-control": ["max-age=60", "PRIVATE"]},
        {"cache-control": "max-age=0"},
        {"cache-control": "max-age=60, max-age=0"},
        {"cache-control": "max-age=-60"},
        {"cache-control": "max-age=sixty"},
        {"cache-control": "max-age"},
        {"cache-control": "max-age=60, s-maxage=0"},
        {"cache-control": 'max-age=60, "private'},
        {"cache-control": "max-age=60 private"},
        {"cache-control": "max-age=60; private"},
        {"cache-control": "max-age=60, x=" + "y" * 5000},
        {"cache-control": None, "expires": STALE_BY},
        {"cache-control": None, "expires": "0"},
        {"cache-control": None, "expires": [FRESH_BY, FRESH_BY]},
        {"cache-control": None, "expires": f"{FRESH_BY},{FRESH_BY}"},
        {"cache-control": "max-age=60,private"},
        {"cache-control": "max-age=60,max-age=0"},
        {"cache-control": "max-age=0", "expires": FRESH_BY},
        {"set-cookie": "a=1"},
        {"vary": "*"},
        {"vary": ["accept", "*"]},
        {"vary": "accept, cookie"},
        {"vary": "Authorization"},
        {"vary": "a b"},
        {"vary": ",".join(f"x-{number}" for number in range(17))},
        {"age": "60"},
        {"age": "99999999999999999999"},
        {"date": formatdate(NOW - 60, usegmt=True)},
        {"date": f"{formatdate(NOW - 60, usegmt=True)},{formatdate(NOW - 60, usegmt=True)}"},
        {"age": "1,60"},
        {"content-range": "bytes 0-1/2"},
        {"content-type": None},
        {"content-encoding": "gzip", "cache-control": "max-age=60, no-transform"},
    ],
)
def test_not_stored(says: dict[str, Any]) -> None:
    subject = policy()
    fetch(subject, says=says)
    assert not hit(subject)


def test_statuses_and_default_ttl(clock: Clock) -> None:
    subject = policy(statuses=[200, 302, 404], default_ttl="10s")
    for status, stored in [(200, True), (404, True), (302, False), (500, False), (301, False)]:
        target = f"/{status}"
        fetch(subject, target, status=status, says={"cache-control": None})
        assert hit(subject, target) is stored, status
    fetch(subject, "/302", status=302)
    assert hit(subject, "/302"), "it says how long it is fresh"
    clock.now += 10
    assert not hit(subject, "/200")


def test_max_ttl_and_max_body(clock: Clock) -> None:
    subject = policy(max_ttl="30s", max_body_bytes=4)
    fetch(subject, "/five", body=b"12345")
    assert not hit(subject, "/five")
    fetch(subject, "/four", body=b"1234")
    clock.now += 29
    assert hit(subject, "/four")
    clock.now += 1
    assert not hit(subject, "/four")


def test_an_empty_body_is_stored() -> None:
    subject = policy()
    fetch(subject, status=404, body=b"", says={"content-type": None})
    again = fetch(subject)
    assert (again.status, again.body, again.reached_upstream) == (404, b"", False)


# -- people --------------------------------------------------------------------------------------------------------------

KNOWN: list[dict[str, Any]] = [
    {"asks": {"authorization": "Bearer a"}},
    {"metadata": {"jwt": {"sub": "a"}}},
    {"metadata": {"api_key": {"client": "a"}}},
    {"metadata": {"basic_auth": {"user": "a"}}},
    {"metadata": {"ext_auth": {"status": 200}}},
    {"metadata": {"introspection": {"sub": "a"}}},
]


@pytest.mark.parametrize("who", KNOWN)
@pytest.mark.parametrize(
    ("directive", "stored"), [("", False), (", public", True), (", s-maxage=60", True), (", must-revalidate", True)]
)
def test_responses_to_authenticated_requests_only_when_the_rfc_allows(
    who: dict[str, Any], directive: str, stored: bool
) -> None:
    subject = policy()
    fetch(subject, says={"cache-control": f"max-age=60{directive}"}, **{**who, **_fresh(who)})
    assert hit(subject) is stored


def _fresh(who: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": dict(who["metadata"])} if "metadata" in who else {}


def test_a_policy_after_it_that_authenticates_counts_too() -> None:
    subject, later = policy(), Authenticates({})
    fetch([subject, later])
    assert not hit(subject)


class Authenticates(Policy):
    def on_request_headers(self, request: Any) -> None:
        request.metadata["jwt"] = {"sub": "a"}


def test_cookies() -> None:
    careful, careless = policy(), policy(requests_with_cookies="ignore")
    for subject, stored in [(careful, False), (careless, True)]:
        fetch(subject, asks={"cookie": "session=1"})
        assert hit(subject) is stored
    fetch(careful)
    assert not hit(careful, asks={"cookie": "session=1"})


# -- requests that are left alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asks",
    [
        {"cache-control": "no-store"},
        {"cache-control": 'x="'},
        {"range": "bytes=0-1"},
        {"if-match": '"a"'},
        {"if-unmodified-since": STALE_BY},
        {"upgrade": "websocket"},
        {"content-length": "3"},
        {"transfer-encoding": "chunked"},
        {"x-forwarded-host": "evil.test"},
        {"forwarded": "host=evil.test"},
        {"x-original-url": "/admin"},
        {"x-http-method-override": "DELETE"},
    ],
)
def test_neither_answered_nor_stored(asks: dict[str, str]) -> None:
    subject = policy()
    poisoned = fetch(subject, asks=asks, body=b"evil")
    assert "x-cache" not in poisoned.response.headers
    assert fetch(subject).body == b"one"
    assert not hit(subject, asks=asks)


def test_no_authority_is_left_alone() -> None:
    subject = policy()
    fetch(subject, authority="")
    assert not hit(subject, authority="")


def test_a_key_header_is_no_reason_to_bypass() -> None:
    subject = policy(key_headers=["x-forwarded-host"])
    fetch(subject, asks={"x-forwarded-host": "evil.test"}, body=b"evil")
    assert hit(subject, asks={"x-forwarded-host": "evil.test"})
    assert fetch(subject).body == b"one"


@pytest.mark.parametrize(
    ("asks", "answered"),
    [
        ({"cache-control": "no-cache"}, False),
        ({"pragma": "no-cache"}, False),
        ({"cache-control": "max-age=5"}, False),
        ({"cache-control": "max-age=20"}, True),
        ({"cache-control": "min-fresh=51"}, False),
        ({"cache-control": "min-fresh=50"}, True),
        ({"cache-control": "only-if-cached"}, True),
    ],
)
def test_directives_of_the_request(asks: dict[str, str], answered: bool, clock: Clock) -> None:
    for choice in ("honor", "ignore"):
        subject = policy(request_directives=choice)
        fetch(subject)
        clock.now += 10
        assert hit(subject, asks=asks) is (answered or choice == "ignore")


def test_only_if_cached_without_a_response_is_504() -> None:
    assert fetch(policy(), asks={"cache-control": "only-if-cached"}).status == 504


# -- Vary ----------------------------------------------------------------------------------------------------------------


def test_variants() -> None:
    subject = policy()
    for language, body in [("de", b"hallo"), ("en", b"hello")]:
        fetch(subject, asks={"accept-language": language}, says={"vary": "Accept-Language"}, body=body)
    assert fetch(subject, asks={"accept-language": "de"}).body == b"hallo"
    assert fetch(subject, asks={"accept-language": "en"}).body == b"hello"
    assert not hit(subject, asks={"accept-language": "fr"}, says={"vary": "accept-language"})
    assert not hit(subject, says={"vary": "accept-language"})
    assert not hit(subject, asks={"accept-language": ["de", "en"]}, says={"vary": "accept-language"})


def test_variants_follow_the_request_as_the_cache_saw_it() -> None:
    later = Changes({})
    subject = policy()
    fetch([subject, later], asks={"accept-language": "de"}, says={"vary": "accept-language"})
    assert hit(subject, asks={"accept-language": "de"})
    assert not hit(subject, asks={"accept-language": "changed"})


class Changes(Policy):
    def on_request_headers(self, request: Any) -> RequestMutation:
        return RequestMutation(set_headers={"accept-language": "changed"}, path="/changed")


def test_variants_are_bounded() -> None:
    subject = policy(max_variants=3)
    for number in range(10):
        fetch(subject, asks={"a": str(number)}, says={"vary": "a"})
    assert [hit(subject, asks={"a": str(number)}, says={"cache-control": "no-store"}) for number in range(10)] == (
        [False] * 7 + [True] * 3
    )


def test_another_vary_forgets_the_variants_before() -> None:
    subject = policy()
    fetch(subject, says={"vary": "a"})
    fetch(subject, asks={"a": "1"}, says={"vary": "b"})
    assert hit(subject, asks={"a": "2"}), "varies by b alone now"


# -- other methods -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "PURGE"])
def test_a_change_is_forgotten_when_it_succeeded(method: str) -> None:
    subject = policy(key_headers=["x-tenant"])
    for asks in ({"x-tenant": "a"}, {"x-tenant": "b"}):
        fetch(subject, asks=asks)
    fetch(subject, method=method, status=500)
    assert hit(subject, asks={"x-tenant": "a"})
    assert not hit(subject, method=method, status=204)
    assert not hit(subject, asks={"x-tenant": "a"})
    assert not hit(subject, asks={"x-tenant": "b"}), "all variants"


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
def test_safe_methods_change_nothing(method: str) -> None:
    subject = policy()
    fetch(subject)
    assert not hit(subject, method=method)
    assert hit(subject)


# -- conditions ----------------------------------------------------------------------------------------------------------

THEN = formatdate(NOW - 1000, usegmt=True)


@pytest.mark.parametrize(
    ("asks", "expected"),
    [
        ({"if-none-match": '"v1"'}, 304),
        ({"if-none-match": 'W/"v1"'}, 304),
        ({"if-none-match": '"v0", W/"v1"'}, 304),
        ({"if-none-match": ['"v0"', '"v1"']}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"v0"'}, 200),
        ({"if-none-match": "v1"}, 200),
        ({"if-none-match": ""}, 200),
        ({"if-none-match": '"v0"', "if-modified-since": THEN}, 200),
        ({"if-modified-since": THEN}, 304),
        ({"if-modified-since": formatdate(NOW, usegmt=True)}, 304),
        ({"if-modified-since": formatdate(NOW - 1001, usegmt=True)}, 200),
        ({"if-modified-since": "yesterday"}, 200),
    ],
)
def test_304_for_those_who_have_it(asks: dict[str, Any], expected: int) -> None:
    subject = policy()
    fetch(subject, says={"etag": '"v1"', "last-modified": THEN, "vary": "accept", "x-other": "1"})
    outcome = fetch(subject, asks=asks)
    assert (outcome.status, outcome.reached_upstream) == (expected, False)
    if expected == 304:
        assert outcome.body == b""
        names = set(outcome.response.headers) - {"content-length", "x-request-id"}
        assert names == {"age", "cache-control", "etag", "last-modified", "vary", "x-cache"}


def test_no_304_for_other_statuses_and_conditions_go_upstream_on_a_miss() -> None:
    subject = policy()
    missed = fetch(subject, asks={"if-none-match": '"v1"'}, status=404, says={"etag": '"v1"'})
    assert missed.request.headers["if-none-match"] == '"v1"'
    assert fetch(subject, asks={"if-none-match": '"v1"'}).status == 404


# -- others in the chain -------------------------------------------------------------------------------------------------


class Stamps(Policy):
    """Sets a header and the body of responses."""

    def on_response_body(self, request: Any, response: Any) -> ResponseMutation:
        return ResponseMutation(set_headers={"x-stamp": "1"}, body=response.body.upper())


def test_what_policies_after_it_did_is_stored_and_those_before_it_see_each_hit() -> None:
    subject = policy()
    assert fetch([subject, Stamps({})]).body == b"ONE"
    again = fetch([subject, Stamps({})])
    assert (again.body, again.response.headers["x-stamp"]) == (b"ONE", "1")
    other = policy()
    fetch([Stamps({}), other])
    assert fetch([other]).body == b"one"
    again = fetch([Stamps({}), other])
    assert (again.body, again.response.headers["x-stamp"], again.reached_upstream) == (b"ONE", "1", False)


def test_a_refusal_before_it_is_final() -> None:
    subject = policy()
    fetch(subject)
    assert hit(subject)
    assert fetch([Refuses({}), subject]).status == 403


class Refuses(Policy):
    def on_request_headers(self, request: Any) -> ImmediateResponse:
        return ImmediateResponse(403)


def test_a_compressed_body_comes_decoded_so_its_coding_is_not_stored() -> None:
    subject = policy()
    fetch(
        subject,
        body=gzip.compress(b"one"),
        says={"content-encoding": "gzip", "etag": '"v1"', "digest": "x", "accept-ranges": "bytes"},
    )
    headers = fetch(subject).response.headers
    assert headers["etag"] == 'W/"v1"'
    assert not {"content-encoding", "digest", "accept-ranges"} & set(headers)


def test_headers_of_one_connection_are_not_stored() -> None:
    subject = policy(drop_headers=["X-Trace"])
    fetch(subject, says={"x-trace": "1", "x-envoy-upstream-service-time": "5", "trailer": "x", "age": "1"})
    names = {"age", "cache-control", "content-length", "content-type", "x-cache", "x-request-id"}
    assert set(fetch(subject).response.headers) == names


@pytest.mark.parametrize("connection", ["x-a, X-B", "x-a,x-b", ["x-a", "x-b, close"], "keep-alive , X-A,,x-b"])
def test_headers_that_connection_lists_are_not_stored(connection: Any) -> None:
    subject = policy()
    fetch(subject, says={"connection": connection, "x-a": "1", "x-b": "2", "x-c": "3"})
    stored = fetch(subject)
    assert not stored.reached_upstream
    assert {"connection", "x-a", "x-b"}.isdisjoint(stored.response.headers)
    assert stored.response.headers["x-c"] == "3"


def test_a_response_whose_connection_lists_what_others_need_is_not_stored() -> None:
    subject = policy()
    fetch(subject, says={"connection": "content-type"})
    assert not hit(subject)


def test_metadata_holds_no_secret_and_is_plain() -> None:
    subject = policy()
    outcome = fetch(subject, asks={"authorization": "Bearer very-secret"})
    assert "very-secret" not in repr(outcome.metadata)


# -- memory --------------------------------------------------------------------------------------------------------------


def test_memory_is_bounded_and_the_least_used_goes_first() -> None:
    subject: Any = policy(max_bytes=65_536)
    for number in range(30):
        fetch(subject, f"/{number}", body=b"x" * 10_000)
        assert hit(subject, "/0"), "always in use"
        assert subject._store.size <= 65_536
    assert hit(subject, "/29")
    assert not hit(subject, "/1", says={"cache-control": "no-store"})
    for number in range(100):
        fetch(subject, "/vary", asks={"a": str(number)}, says={"vary": "a"}, body=b"x" * 10_000)
        assert subject._store.size <= 65_536
    fetch(subject, "/big", body=b"x" * 70_000)
    assert not hit(subject, "/big")
    for number in range(30):
        fetch(subject, f"/{number}", method="DELETE")
    for name in list(subject._store._resources):
        subject._store.forget(name)
    assert subject._store.size == 0


# -- bytes from outside --------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(max_codepoint=0x2FF, exclude_categories=["Cs"]), max_size=60)
LISTS = st.lists(
    st.sampled_from(["private", "no-store", "max-age=60", "max-age", "public", '="', '"', ",", " ", 'x="a, b"', "\\"])
    | TEXTS,
    max_size=8,
).map("".join)


@settings(deadline=None, max_examples=300)
@given(LISTS)
def test_no_cache_control_makes_it_fail_or_stores_what_is_private(text: str) -> None:
    subject = policy()
    for target, value in [("/a", f"private, max-age=60, {text}"), ("/b", f"{text},private, max-age=60")]:
        fetch(subject, target, says={"cache-control": value})
        assert not hit(subject, target)


@settings(deadline=None, max_examples=200)
@given(name=st.sampled_from(["vary", "expires", "date", "age", "etag", "last-modified"]), text=LISTS, asked=LISTS)
def test_no_other_header_makes_it_fail(name: str, text: str, asked: str) -> None:
    subject = policy()
    fetch(subject, says={name: text})
    for asks in ("if-none-match", "if-modified-since", "cache-control", "pragma"):
        fetch(subject, asks={asks: asked})


DIRECTIVES = st.dictionaries(
    st.from_regex(r"[a-z][a-z-]{0,10}", fullmatch=True),
    st.none() | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12),
    max_size=6,
)


@settings(deadline=None, max_examples=300)
@given(DIRECTIVES, st.booleans(), st.sampled_from([",", ", ", " ,\t", ",,"]))
def test_directives_that_are_written_are_read(wanted: dict[str, str | None], upper: bool, comma: str) -> None:
    parse = _module("directives").parse
    parts = []
    for name, value in wanted.items():
        quoted = None if value is None else '="' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        parts.append((name.upper() if upper else name) + (quoted or ""))
    found = parse([comma.join(parts)])
    assert {name: values[0] for name, values in found._found.items()} == wanted


@given(st.floats(0, 4_000_000_000).map(int))
def test_dates_that_are_written_are_read(when: int) -> None:
    assert _module("freshness").http_date(formatdate(when, usegmt=True)) == when


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_of_a_store_are_an_entry_or_nothing(raw: bytes) -> None:
    entries = _module("entries")
    entry = entries.unpacked(raw)
    assert entry is None or isinstance(entry, entries.Entry)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=9), st.binary(max_size=9)), max_size=5), st.binary(max_size=99))
def test_packing(headers: list[tuple[str, bytes]], body: bytes) -> None:
    entries = _module("entries")
    pairs = tuple(Headers([(f"x{name}", raw) for name, raw in headers]).items())
    entry = entries.Entry(200, pairs, body, 1.5, 0.5, 60.0)
    assert entries.unpacked(entries.packed(entry)) == entry


def _module(name: str) -> Any:
    import importlib

    package = policy_class(__file__).__module__.rpartition(".")[0]
    return importlib.import_module(f"{package}.{name}")


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"status_header": "content-length"}, "/status_header"),
        ({"key_headers": ["x", "a b"]}, "/key_headers/1"),
        ({"bypass_headers": [":path"]}, "/bypass_headers/0"),
        ({"drop_headers": ["host"]}, "/drop_headers/0"),
        ({"default_ttl": "soon"}, "/default_ttl"),
        ({"redis": {"url": "redis://a:b@c"}}, "/redis/url"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert caught.value.path == path
