"""Metrics of a policy's own: names and labels checked when the class is made, series bounded, read by the kit."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from policy_engine.sdk import Counter, Histogram, MetricError, Policy, Request
from policy_engine.sdk.metrics import MOST_SERIES, metrics_of
from policy_engine.sdk.testing import request, run
from policy_engine.telemetry.exposition import exposition
from policy_engine.telemetry.metrics import add_samples, families_of, worker_samples
from policy_engine.telemetry.route_sums import RouteSums
from policy_engine.transport.counters import CountersSnapshot
from policy_engine.worker.policies.loader import load_policy_tree
from testsupport import envoy_messages
from testsupport.chains import engine

NO_TRANSPORT = CountersSnapshot(
    **dict.fromkeys(CountersSnapshot.__slots__, 0)  # type: ignore[arg-type] # every field but two is an int
    | {"protocol_errors": {}, "connections_refused": {}}
)


class Metered(Policy):
    refused = Counter("Requests that were refused.", labels={"reason": ("missing", "unknown")})
    _sizes = Histogram("Bytes of a path.", buckets=(2, 10))
    tenants = Counter("Requests by tenant.", labels={"tenant": None})

    def on_request_headers(self, request: Request) -> None:
        self._sizes.observe(len(request.path))
        self.refused.inc(reason=request.headers.get("x-reason", "missing"))
        self.tenants.inc(2, tenant=request.headers.get("x-tenant") or "")


def test_the_kit_tells_what_one_exchange_counted() -> None:
    for _ in range(2):
        outcome = run(Metered({}), request("GET", "/abc", {"x-reason": "unknown"}))
        assert outcome.metric("refused", reason="unknown") == 1
        assert outcome.metric("refused", reason="missing") == 0
        assert outcome.metric("refused") == 1
        assert (outcome.metric("sizes"), outcome.metric("sizes_sum")) == (1, 4)
        assert outcome.metric("tenants", tenant="other") == 2


def test_series_are_bounded_whatever_clients_send() -> None:
    class Open(Policy):
        seen = Counter("Values.", labels={"value": None, "kind": ("a", "b")})

    for number in range(10 * MOST_SERIES):
        Open.seen.inc(value=f"{number}", kind="a")
    Open.seen.inc(value="x" * 1000, kind="c")
    Open.seen.inc(value="\ud800", kind="a")
    rows = list(Open.seen.samples())
    assert len(rows) <= MOST_SERIES + 3
    assert sum(value for _, _, value in rows) == 10 * MOST_SERIES + 2
    assert Open.seen.value(value="never seen", kind="a") == 9 * MOST_SERIES + 1
    assert all(len(labels["value"]) <= 100 for _, labels, _ in rows)


def test_threads_lose_no_count() -> None:
    class Threaded(Policy):
        counted = Counter("Counts.")

    def count() -> None:
        for _ in range(2000):
            Threaded.counted.inc()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert Threaded.counted.value() == 8000


def test_a_class_counts_for_itself_also_what_it_inherits() -> None:
    class Child(Metered):
        pass

    before = Metered.refused.value(reason="missing")
    Child.refused.inc(reason="missing")
    assert Child.refused.value(reason="missing") == 1
    assert Metered.refused.value(reason="missing") == before
    assert [one.name for one in metrics_of(Child)] == ["refused", "sizes", "tenants"]


@pytest.mark.parametrize(
    "body",
    [
        {"Refused": Counter("x")},
        {"refused_total": Counter("x")},
        {"a" * 61: Counter("x")},
        {"größe": Counter("x")},
        {"one": Counter("x"), "_one": Counter("y")},
    ],
    ids=lambda body: next(iter(body)),
)
def test_names_are_checked_when_the_class_is_made(body: dict[str, Any]) -> None:
    with pytest.raises((MetricError, RuntimeError)):
        type("Wrong", (Policy,), body)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: Counter(""),
        lambda: Counter("two\nlines"),
        lambda: Counter("x", labels={"policy": ("a",)}),
        lambda: Counter("x", labels={"le": None}),
        lambda: Counter("x", labels={"Reason": None}),
        lambda: Counter("x", labels={"reason": "abc"}),
        lambda: Counter("x", labels={"reason": ()}),
        lambda: Counter("x", labels={"reason": [str(number) for number in range(101)]}),
        lambda: Counter("x", labels={"a": [str(n) for n in range(11)], "b": [str(n) for n in range(11)]}),
        lambda: Counter("x", labels=dict.fromkeys("abcde")),
        lambda: Histogram("x", buckets=()),
        lambda: Histogram("x", buckets=(2, 1)),
        lambda: Histogram("x", buckets=(1, float("inf"))),
        lambda: Histogram("x", buckets=range(31)),
    ],
)
def test_declarations_are_checked(declare: Any) -> None:
    with pytest.raises(MetricError):
        declare()


@pytest.mark.parametrize(
    "use",
    [
        Metered.refused.inc,
        lambda: Metered.refused.inc(why="missing"),
        lambda: Metered.refused.inc(-1, reason="missing"),
        lambda: Metered.refused.inc(float("nan"), reason="missing"),
        lambda: Metered._sizes.observe(float("inf")),
        lambda: Metered._sizes.observe(1, reason="missing"),
    ],
)
def test_wrong_uses_are_errors(use: Any) -> None:
    with pytest.raises(MetricError):
        use()


def test_they_are_shown_with_policy_and_version_and_added_up_over_processes() -> None:
    class Shown(Metered):
        pass

    made = engine(Shown)
    session = made.session()
    session.receive(envoy_messages.request_headers("r", path="/abc"))
    samples = worker_samples(made.kernel, made.compiler, NO_TRANSPORT, RouteSums())
    add_samples(samples, worker_samples(made.kernel, made.compiler, NO_TRANSPORT, RouteSums()))
    text = exposition(samples, families_of(made.compiler.registry)).decode()
    shown = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("policy_shown_")
    }
    own = (("policy", "shown"), ("version", "v1.0.0"))
    assert shown["policy_shown_refused_total", own[0], ("reason", "missing"), own[1]] == 2
    assert shown["policy_shown_refused_total", own[0], ("reason", "unknown"), own[1]] == 0
    assert shown["policy_shown_sizes_bucket", ("le", "2"), *own] == 0
    assert shown["policy_shown_sizes_bucket", ("le", "10"), *own] == 2
    assert shown["policy_shown_sizes_count", *own] == 2
    assert shown["policy_shown_sizes_sum", *own] == 8
    assert "# HELP policy_shown_refused_total Requests that were refused." in text


def test_a_metric_of_two_kinds_is_found_when_policies_are_loaded(tmp_path: Path) -> None:
    for version, metric in (("v1_0_0", 'Counter("x")'), ("v2_0_0", 'Histogram("x")')):
        directory = tmp_path / "metered" / version
        directory.mkdir(parents=True)
        (directory / "policy.yaml").write_text(
            f"name: metered\nversion: {version.replace('_', '.')}\ndescription: x\nentrypoint: policy:Metered\n"
            "phases: [request_headers]\n"
        )
        (directory / "policy.py").write_text(
            "from policy_engine.sdk import Counter, Histogram, Policy\n"
            f"class Metered(Policy):\n    sizes = {metric}\n    def on_request_headers(self, request): ...\n"
        )
    registry, found = load_policy_tree(tmp_path)
    assert registry is None
    assert "policy_metered_sizes is a histogram of policy metered v2.0.0 and a counter of metered v1.0.0" in str(
        found[0]
    )
