"""The admin page: hostile text stays text, all of it works without JavaScript, and many routes stay a short page."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from policy_engine.telemetry.admin_page import POLICY, ROUTES_ON_A_PAGE, Shown, figures, page
from policy_engine.telemetry.history import MOST_NAMES, ConfigurationHistory
from policy_engine.telemetry.page_assets import SCRIPT, STYLE
from policy_engine.telemetry.readiness import Check
from policy_engine.worker.chains.spec import ChainsSpec, FailureMode, Mode, PolicySpec, RouteSpec, Share

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</pre></details><svg onload=alert(1)>",
    "&lt;b&gt; &amp; \u202e\u0000 ]]> {body}",
    "javascript:alert(1)",
]


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(history: ConfigurationHistory | None = None, **others: Any) -> Shown:
    build = {"engine": "1.0.0", "policies": []}
    known: dict[str, Any] = {
        "ready": True,
        "reason": "ready",
        "checks": (),
        "history": history or ConfigurationHistory(),
        "build": build,
        "workers": {},
        "samples": {},
        "denials": (),
    }
    return Shown(**known | others)


def everywhere(hostile: str) -> Shown:
    history = ConfigurationHistory()
    entry = PolicySpec(
        hostile,
        hostile,
        condition=hostile,
        parameters={hostile: [hostile, {"k": hostile}]},
        requested_version=f"v{hostile}",
        share=Share(0, 10, hostile),
    )
    history.accept(ChainsSpec(()), hostile, hostile)
    history.accept(ChainsSpec((RouteSpec(hostile, (entry,)),)), hostile, hostile)
    history.reject(hostile, [hostile])
    build = {
        "engine": hostile,
        "policies": [{"name": hostile, "version": hostile, "digest": hostile, "reviewed_digest": hostile}],
        "dependencies": [{"name": hostile, "version": hostile, "licence": hostile}],
        "verification": {"findings": [hostile]},
    }
    denial = dict.fromkeys(
        ("request_id", "route", "path", "method", "decision", "status", "reason", "policy", "policy_version"), hostile
    )
    workers = {"processes": [{"number": 0, "state": hostile, "pid": hostile}], "restarts": hostile}
    return shown(
        history,
        reason=hostile,
        checks=(Check(hostile, False, hostile, decides=False),),
        build=build,
        workers=workers,
        denials=(denial,),
        query="" if hostile.startswith("java") else hostile[:5],
    )


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_parameters_and_requests_are_text_wherever_they_stand(hostile: str) -> None:
    plain, found = Parsed(page(everywhere("harmless"))), Parsed(page(everywhere(hostile)))
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in plain.elements]
    assert [set(attributes) for _, attributes in found.elements] == [set(one) for _, one in plain.elements]
    for _, attributes in found.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("href", "src", "action") or str(value).startswith("/"), (name, value)
    assert hostile.replace("\0", "�") in found.text.replace("\0", "�")


def test_nothing_is_inline_or_from_elsewhere() -> None:
    found = Parsed(page(everywhere("x")))
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'")
    for tag, attributes in found.elements:
        assert tag != "style"
        assert "style" not in attributes
        assert tag != "script" or attributes == {"src": "/page.js", "defer": None}
    assert "http" not in SCRIPT + STYLE
    assert "innerHTML" not in SCRIPT
    assert "prefers-color-scheme:dark" in STYLE
    assert "max-width:42rem" in STYLE


def test_secrets_are_masked() -> None:
    history = ConfigurationHistory()
    entry = PolicySpec("p", "v1.0.0", parameters={"key": "hunter2", "ok": "seen"}, secrets=frozenset({"/key"}))
    history.accept(ChainsSpec((RouteSpec("r", (entry,)),)), "v", "chains.yaml")
    text = page(shown(history))
    assert "hunter2" not in text
    assert "seen" in text


def test_an_entry_shows_how_it_differs_from_one_that_always_runs_and_denies() -> None:
    history = ConfigurationHistory()
    entries = (
        PolicySpec("plain", "v1.0.0"),
        PolicySpec("off", "v1.2.0", requested_version="v1", enabled=False),
        PolicySpec("open", "v1.0.0", failure_mode=FailureMode.OPEN, condition='request.path == "/x"'),
        PolicySpec("tried", "v1.0.0", mode=Mode.SHADOW, share=Share(0, 250_000)),
    )
    history.accept(ChainsSpec((RouteSpec("r", entries), RouteSpec("empty"))), "v", "chains.yaml")
    summaries = [part.split("</summary>")[0] for part in page(shown(history)).split("<summary>")[1:]]
    assert "tag" not in summaries[0]
    assert 'class="off">off v1.2.0 (written v1)' in summaries[1]
    assert ">disabled<" in summaries[1]
    assert ">fails open<" in summaries[2]
    assert ">condition<" in summaries[2]
    assert ">shadow<" in summaries[3]
    assert ">25 %<" in summaries[3]
    assert "(pass)" in page(shown(history))


def test_five_thousand_routes_are_looked_through_a_page_at_a_time() -> None:
    history = ConfigurationHistory()
    routes = tuple(RouteSpec(f"route-{number:04}", (PolicySpec(f"p{number % 7}", "v1.0.0"),)) for number in range(5000))
    history.accept(ChainsSpec(routes), "v", "chains.yaml")

    def keys(**wanted: Any) -> list[str]:
        found = Parsed(page(shown(history, **wanted)))
        return [str(one["data-route"]) for _, one in found.elements if "data-route" in one]

    assert keys() == [f"route-{number:04}" for number in range(ROUTES_ON_A_PAGE)]
    assert keys(number=100)[-1] == "route-4999"
    assert keys(number=10**6) == keys(number=100)
    assert keys(query="ROUTE-4321") == ["route-4321"]
    assert len(keys(query="p3")) == ROUTES_ON_A_PAGE
    assert keys(query="no such") == []
    text = page(shown(history, query="p3", number=2))
    assert 'href="/?q=p3&amp;page=3#chains"' in text
    assert len(text) < 100_000


def test_what_a_change_changed_is_told() -> None:
    history = ConfigurationHistory()
    many = tuple(RouteSpec(f"new-{number}") for number in range(MOST_NAMES + 5))
    history.accept(ChainsSpec((RouteSpec("a"), RouteSpec("b"))), "1", "f")
    history.accept(ChainsSpec((RouteSpec("b", (PolicySpec("p", "v1.0.0"),)), *many)), "2", "f")
    assert history.events[0].changes == ()
    changes = {kind: (names, more) for kind, names, more in history.events[1].changes}
    assert changes["removed"] == (("a",), 0)
    assert changes["changed"] == (("b",), 0)
    assert changes["added"] == (tuple(f"new-{number}" for number in range(MOST_NAMES)), 5)
    assert "and 5 more" in page(shown(history))


def test_figures_are_summed_over_routes() -> None:
    samples: Any = {
        "policy_engine_requests": [({"route": "a"}, 3), ({"route": "b"}, 4)],
        "policy_engine_denials": [({"route": "a", "decision": "denied"}, 2), ({"route": "a", "decision": "failed"}, 1)],
        "policy_engine_policy_duration_seconds_bucket": [
            ({"policy": "p", "le": "0.001"}, 1),
            ({"policy": "q", "le": "0.001"}, 2),
            ({"policy": "p", "le": "+Inf"}, 5),
        ],
    }
    found = figures(samples, True, "ready")
    assert (found["requests"], found["denials"], found["routes"]) == (7, 2, {"a": 3, "b": 4})
    assert found["buckets"] == [("0.001", 3), ("+Inf", 5)]
