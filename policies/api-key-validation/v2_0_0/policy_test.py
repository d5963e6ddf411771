"""api-key-validation through the test kit: who gets in, what others learn of the key, and that their number costs nothing."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.dependencies import dependency_states
from policy_engine.sdk.testing import Outcome, load_policy, request, run

NOW = 1_700_000_000


def entry(key: str, client: str = "mobile", salt: str = "", **more: Any) -> dict[str, Any]:
    return {"client": client, "sha256": hashlib.sha256((salt + key).encode()).hexdigest(), **more}


KEYS = [
    entry("gold-key", tier="gold", project="shop", groups=["staff", "eu"], expires="2030-01-01T00:00:00+01:00"),
    entry("plain-key", "partner"),
]


def policy(**parameters: Any) -> Policy:
    if "keys_file" not in parameters:
        parameters = {"keys": KEYS, **parameters}
    return load_policy(__file__, parameters)


def with_key(subject: Policy, value: Any, **headers: str) -> Outcome:
    return run(subject, request("GET", "/a?b=1", headers={"x-api-key": value, "x-tier": "forged", **headers}))


def why(outcome: Outcome) -> str:
    assert not outcome.reached_upstream
    assert "api_key" not in outcome.metadata
    assert outcome.immediate is not None
    return outcome.immediate.details


def test_what_is_known_of_the_key_is_there_for_others() -> None:
    assert with_key(policy(), "gold-key").metadata["api_key"] == {
        "client": "mobile",
        "tier": "gold",
        "project": "shop",
        "groups": ["staff", "eu"],
        "expires": "2030-01-01T00:00:00+01:00",
    }
    assert with_key(policy(), "plain-key").metadata["api_key"] == {"client": "partner"}


def test_conditions_rules_and_limits_read_it() -> None:
    others = Path(__file__).parents[2]
    rules = [
        {
            "name": "gold",
            "action": "allow",
            "when": 'metadata.api_key.tier == "gold" && "eu" in metadata.api_key.groups',
        }
    ]
    chain = [policy(), load_policy(others / "authorize" / "v1_0_0", {"rules": rules})]
    assert run(chain, request(headers={"x-api-key": "gold-key"})).reached_upstream
    assert run(chain, request(headers={"x-api-key": "plain-key"})).status == 403
    by_tier = {"limits": ["1/minute"], "key": [{"source": "metadata", "path": ["api_key", "client"]}]}
    chain = [policy(), load_policy(others / "rate-limit" / "v1_0_0", by_tier)]
    statuses = [run(chain, request(headers={"x-api-key": key})).status for key in ("gold-key", "gold-key", "plain-key")]
    assert statuses == [200, 429, 200]


def test_one_request_cannot_change_what_is_known_for_the_next() -> None:
    subject = policy()
    with_key(subject, "plain-key").metadata["api_key"]["tier"] = "gold"
    assert with_key(subject, "plain-key").metadata["api_key"] == {"client": "partner"}


def test_what_goes_upstream() -> None:
    subject = policy(headers={"client": "X-Client", "tier": "x-tier"})
    gold = with_key(subject, "gold-key", **{"x-client": "forged"}).request.headers
    assert (gold["x-client"], gold["x-tier"], "x-api-key" in gold) == ("mobile", "gold", False)
    plain = with_key(subject, "plain-key").request.headers
    assert (plain["x-client"], "x-tier" in plain) == ("partner", False)
    assert with_key(subject, "gold-key").steps[0].action is with_key(subject, "gold-key").steps[0].action
    kept = with_key(policy(forward_key=True), "gold-key")
    assert (kept.request.headers["x-api-key"], kept.steps[0].action) == ("gold-key", None)


@pytest.mark.parametrize(("headers", "reason", "status"), [({}, "missing", 401), ({"x-api-key": ""}, "missing", 401)])
def test_no_key(headers: dict[str, str], reason: str, status: int) -> None:
    outcome = run(policy(realm="shop"), request(headers=headers))
    assert (outcome.status, why(outcome)) == (status, f"{reason}_api_key")
    assert outcome.response.headers["www-authenticate"] == 'ApiKey realm="shop"'


@pytest.mark.parametrize("key", ["wrong", "gold-key ", "Gold-key", "x" * 5000, b"\xff\xfe", KEYS[0]["sha256"]])
def test_a_wrong_key(key: str | bytes) -> None:
    outcome = with_key(policy(), key)
    assert (outcome.status, why(outcome)) == (403, "wrong_api_key")
    assert with_key(policy(wrong_key_status=401), key).status == 401


@pytest.mark.parametrize("keys", [["gold-key", "plain-key"], ["gold-key"] * 2, "gold-key,plain-key"])
def test_two_keys(keys: Any) -> None:
    outcome = with_key(policy(), keys)
    assert (outcome.status, why(outcome)) == (400, "several_api_keys")


def test_an_expired_key_is_a_wrong_one_for_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = policy(
        keys=[entry("k", expires="2023-11-14T22:13:20Z"), entry("later", expires="2023-11-14T23:13:21+01:00")]
    )
    for clock, key, passes in (
        (NOW - 1, "k", True),
        (NOW, "k", False),
        (NOW, "later", True),
        (NOW + 1, "later", False),
    ):
        monkeypatch.setattr(time, "time", lambda clock=clock: float(clock))
        outcome = with_key(subject, key)
        assert outcome.reached_upstream is passes
        if not passes:
            assert (outcome.status, why(outcome)) == (403, "expired_api_key")
            assert json.loads(outcome.body or b"") == json.loads(with_key(subject, "wrong").body or b"")


def test_a_salt_and_a_prefix() -> None:
    subject = policy(keys=[entry("k", salt="2f9c")], salt="2f9c", name="Authorization", prefix="ApiKey ")
    assert run(subject, request(headers={"authorization": "apikey k"})).reached_upstream
    assert run(subject, request(headers={"authorization": "k"})).status == 401
    assert run(subject, request(headers={"authorization": "ApiKey 2f9ck"})).status == 403


@pytest.mark.parametrize(("target", "upstream"), [("/a?k=gold-key", "/a"), ("/a?x=%20+&k=gold%2Dkey&y", "/a?x=%20+&y")])
def test_a_key_in_the_query_is_cut_out(target: str, upstream: str) -> None:
    outcome = run(policy(**{"in": "query", "name": "k"}, headers={"tier": "x-tier"}), request("GET", target))
    assert (outcome.request.target, outcome.request.headers["x-tier"]) == (upstream, "gold")


@given(st.text(max_size=40))
def test_no_input_but_a_key_gets_in(value: str) -> None:
    assert run(policy(), request(headers={"x-api-key": value.encode("utf-8", "replace")})).status in {400, 401, 403}


# -- fifteen thousand ------------------------------------------------------------------------------------------------


def many(count: int) -> list[dict[str, Any]]:
    return [entry(f"key-{number}", f"client-{number % 100}", tier="gold") for number in range(count)]


def written(path: Path, keys: list[dict[str, Any]]) -> Path:
    """Write as an editor does: another file renamed into the place."""
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(json.dumps(one) + "\n" for one in keys))
    fresh.replace(path)
    return path


def cost(subject: Policy, count: int) -> float:
    """Return the least processor time of a thousand requests with keys from everywhere in the table, and wrong ones."""
    texts = [f"key-{number * 7919 % count}" for number in range(900)] + [f"wrong-{number}" for number in range(100)]
    asked = [request(headers={"x-api-key": text}) for text in texts]
    times = []
    for _ in range(5):
        gc.disable()
        started = time.thread_time()
        for one in asked:
            subject.on_request_headers(one)
        times.append(time.thread_time() - started)
        gc.enable()
    return min(times)


def test_the_number_of_keys_costs_nothing(tmp_path: Path) -> None:
    costs = {}
    for count in (15, 3_750, 7_500, 15_000):
        subject = policy(
            keys_file=str(written(tmp_path / f"{count}.jsonl", many(count))), headers={"client": "x-client"}
        )
        costs[count] = cost(subject, count)
    assert max(costs.values()) < 3 * min(costs.values()), costs


def test_ten_thousand_keys_in_the_chain_itself() -> None:
    subject = policy(keys=many(10_000))
    assert with_key(subject, "key-9999").metadata["api_key"] == {"client": "client-99", "tier": "gold"}
    assert with_key(subject, "key-10000").status == 403


# -- the file --------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "keys.jsonl", KEYS)


def eventually(subject: Policy, key: str, status: int) -> None:
    until = time.monotonic() + 20
    while with_key(subject, key).status != status:
        assert time.monotonic() < until, f"{key} does not get {status}"
        time.sleep(0.05)


def state_of(path: Path) -> Any:
    return next(one for one in dependency_states() if one.name == str(path))


def test_a_key_is_added_and_another_taken_away_without_a_reload(file: Path) -> None:
    subject = policy(keys_file=str(file))
    assert with_key(subject, "plain-key").reached_upstream
    written(file, [KEYS[0], entry("new-key", "newcomer")])
    eventually(subject, "new-key", 200)
    assert with_key(subject, "plain-key").status == 403
    assert with_key(subject, "gold-key").metadata["api_key"]["tier"] == "gold"


@pytest.mark.parametrize("wrong", ['{"client": "a"}', "[1]", "no JSON", '{"client": "a", "sha256": "00"}', '"x',
    '{"client": "a", "client": "b", "sha256": "' + "0" * 64 + '"}', '{"a": 1, "a": 2}',
])  # fmt: skip
def test_a_wrong_file_changes_nothing_and_operators_are_told(file: Path, wrong: str) -> None:
    subject = policy(keys_file=str(file))
    with file.open("a") as lines:
        lines.write(wrong + "\n")
    until = time.monotonic() + 20
    while state_of(file).up:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "line 3" in state_of(file).reason
    assert with_key(subject, "plain-key").reached_upstream
    written(file, [KEYS[0]])
    eventually(subject, "plain-key", 403)
    assert state_of(file).up


def test_a_key_whose_end_stands_twice_is_not_one_that_ends_later(tmp_path: Path) -> None:
    line = json.dumps(entry("a", expires="2020-01-01T00:00:00Z"))
    path = tmp_path / "keys.jsonl"
    path.write_text(line.removesuffix("}") + ', "expires": "2099-01-01T00:00:00Z"}')
    with pytest.raises(ParameterError, match="line 1: has the field expires twice"):
        policy(keys_file=str(path))


def test_a_byte_order_mark_is_no_key(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert with_key(policy(keys_file=str(file)), "gold-key").reached_upstream


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ParameterError, match="is no file"):
            policy(keys_file=str(path))


def test_a_file_that_goes_and_comes_back(file: Path) -> None:
    subject = policy(keys_file=str(file))
    content = file.read_bytes()
    file.unlink()
    until = time.monotonic() + 20
    while state_of(file).up:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert with_key(subject, "gold-key").reached_upstream
    file.write_bytes(content)
    while not state_of(file).up:
        assert time.monotonic() < until + 20
        time.sleep(0.05)


def test_a_writer_that_is_at_work_is_left_to_finish(file: Path) -> None:
    subject = policy(keys_file=str(file))
    followed = subject._file  # type: ignore[attr-defined]
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0])
    followed.look()
    os.utime(file, ns=(1, time.time_ns()))
    file.write_bytes(b"".join(lines))
    followed.look()
    assert with_key(subject, "plain-key").reached_upstream


def test_users_of_a_file_share_it_and_its_thread_ends_with_the_last(file: Path) -> None:
    first, second = policy(keys_file=str(file)), policy(keys_file=str(file))
    assert first._file is second._file  # type: ignore[attr-defined]
    before = [one.name for one in threading.enumerate()].count("api-keys")
    first.close()
    assert with_key(first, "gold-key").status == 403
    second.close()
    gc.collect()
    until = time.monotonic() + 20
    while [one.name for one in threading.enumerate()].count("api-keys") >= before:
        assert time.monotonic() < until
        time.sleep(0.05)


# -- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"name": "not a header"}, "/name"),
        ({"in": "query", "prefix": "x "}, "/prefix"),
        ({"headers": {"client": ":path"}}, "/headers/client"),
        ({"headers": {"tier": "X-Api-Key"}}, "/headers/tier"),
        ({"headers": {"tier": "x-a", "project": "X-A"}}, "/headers/project"),
        ({"keys": [KEYS[0], KEYS[0]]}, "/keys/1/sha256"),
        ({"keys": [entry("a", "a\nb")]}, "/keys/0/client"),
        ({"keys": [entry("a", expires="2030-01-01T00:00:00")]}, "/keys/0/expires"),
        ({"keys": [entry("a", expires="next year")]}, "/keys/0/expires"),
        ({"keys_file": "/no/such/file"}, "/keys_file"),
        ({"keys_file": "/"}, "/keys_file"),
        ({"keys_file": __file__}, "/keys_file"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "parameters", [{}, {"keys": KEYS, "keys_file": "a"}, {"keys": [{"client": "a", "sha256": "00"}]}, {"keys": []}]
)
def test_parameters_that_the_schema_rules_out(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        load_policy(__file__, parameters)
