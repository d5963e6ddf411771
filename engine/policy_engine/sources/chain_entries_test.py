"""Entries of every form: shadow, shares, versions, alternatives, shared lists; and keys with stars (R-26, R-27)."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy_engine.documents.diagnostics import Rule, Severity
from policy_engine.documents.yaml_document import read_document
from policy_engine.processes.channel import spec_from_message, spec_to_message
from policy_engine.sources.chain_reader import ChainReader, LoadedChains
from policy_engine.worker.chains.spec import AnyOf, ChainsSpec, Mode, PolicySpec, Share, Unmapped
from policy_engine.worker.policies.loader import load_policy_tree
from policy_engine.worker.policies.registry import Registry
from testsupport.policy_directories import write_policy

HALF = 500_000
WHOLE = 1_000_000


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """`tested` in three versions; `key` and `token` decide who gets in, `late` does so by the body."""
    root = tmp_path_factory.mktemp("policies")
    for version in ("v1.0.0", "v1.2.0", "v2.0.0"):
        write_policy(root, version=version)
    for name in ("key", "token"):
        manifest = write_policy(root, name=name) / "policy.yaml"
        manifest.write_text(manifest.read_text() + "\nauthenticates: true\n")
    late = write_policy(root, name="late")
    manifest = late / "policy.yaml"
    manifest.write_text(manifest.read_text().replace("[request_headers]", "[request_body]") + "\nauthenticates: true\n")
    code = late / "policy.py"
    code.write_text(code.read_text().replace("on_request_headers", "on_request_body"))
    registry, diagnostics = load_policy_tree(root)
    assert registry is not None, diagnostics
    return registry


def read(registry: Registry, *texts: str) -> LoadedChains:
    documents = [read_document(f"f{index}.yaml", text.encode()) for index, text in enumerate(texts)]
    return ChainReader(registry).read_documents(
        [document for document, _ in documents if document is not None],
        [one for _, diagnostics in documents for one in diagnostics],
    )


def good(registry: Registry, *texts: str) -> ChainsSpec:
    loaded = read(registry, *texts)
    assert loaded.chains is not None, loaded.diagnostics
    assert spec_from_message(spec_to_message(loaded.chains)) == loaded.chains
    return loaded.chains


def chain(*entries: str, more: str = "") -> str:
    listed = "".join(f"\n  - {one}" for one in entries)
    return f"version: v1\nroutes:\n- route_key: r\n{more}  policies:{listed or ' []'}\n"


def policies(registry: Registry, *entries: str) -> tuple[PolicySpec, ...]:
    return good(registry, chain(*entries)).routes[0].policies


def wrong(registry: Registry, *texts: str) -> str:
    loaded = read(registry, *texts)
    assert loaded.chains is None
    return "\n".join(str(one) for one in loaded.diagnostics if one.severity is Severity.ERROR)


def test_shadow(registry: Registry) -> None:
    one, other = policies(
        registry, "{name: tested, version: v1, mode: shadow}", "{name: tested, version: v1, mode: enforce}"
    )
    assert (one.mode, other.mode) == (Mode.SHADOW, Mode.ENFORCE)
    assert one.as_document()["mode"] == "shadow"


@pytest.mark.parametrize(
    ("written", "share"),
    [
        ("5%", Share(0, 50_000)),
        ("0.0001%", Share(0, 1)),
        ("33.3333%", Share(0, 333_333)),
        ("0%", Share(0, 0)),
        ("100%", Share(0, WHOLE)),
        ("{percent: 5}", Share(0, 50_000)),
        ("{percent: 12.5, by: request.path}", Share(0, 125_000, "request.path")),
        ("{percent: 12.5%, by: 'request.headers[\"x-user\"]'}", Share(0, 125_000, 'request.headers["x-user"]')),
    ],
)
def test_a_share(registry: Registry, written: str, share: Share) -> None:
    (one,) = policies(registry, f"{{name: tested, version: v1, share: {written}}}")
    assert one.share == share


def test_versions_side_by_side(registry: Registry) -> None:
    new, old, rest = policies(
        registry,
        "{name: tested, versions: {v2: 5%, v1.0.0: 94.9999%, v1: {share: 0.0001%, parameters: {url: https://a.example}}},"
        " share: {by: request.path}, mode: shadow, condition: 'true'}",
    )
    assert [(one.version, one.share) for one in (new, old, rest)] == [
        ("v2.0.0", Share(0, 50_000, "request.path")),
        ("v1.0.0", Share(50_000, 999_999, "request.path")),
        ("v1.2.0", Share(999_999, WHOLE, "request.path")),
    ]
    assert {(one.mode, one.condition) for one in (new, old, rest)} == {(Mode.SHADOW, "true")}
    assert (rest.parameters.get("url"), new.parameters.get("url")) == ("https://a.example", None)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("mode: shade", "is not one of the values allowed; did you mean 'shadow'? (got \"shade\"); allowed: enforce"),
        ("share: 5", "/share: has no unit (write 5%)"),
        ("share: 101%", "is more than all requests"),
        ("share: 100.0001%", "is more than all requests"),
        ("share: 0.00001%", "is not a share of the requests"),
        ("share: -1%", "is not a share of the requests"),
        ("share: true", "is not a share of the requests"),
        ("share: {by: request.path}", "lacks the required key 'percent'"),
        ("share: {percent: 5, by: request.pth}", "did you mean `request.path`"),
        ("share: {percent: 5, by: response.status}", "is not known when the request is handled"),
        ("share: {percent: 5, by: request.path == 'a'}", "must be a text, but it is of type bool"),
        ("share: {percent: 5, key: request.path}", "'key' is not a key of a share"),
        ("versions: {v1: 100%}", "stands beside `versions`"),
    ],
)
def test_mistakes_in_shares(registry: Registry, entry: str, expected: str) -> None:
    found = wrong(registry, chain(f"{{name: tested, version: v1, {entry}}}"))
    assert expected in found
    assert found.startswith("f0.yaml:5:")
    assert found.count("f0.yaml") == 1


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("versions: {v2: 5%, v1: 94%}", 'all requests together (got "99%"); allowed: 100%'),
        ("versions: {v2: 5%, v1: 96%}", '(got "101%")'),
        ("versions: {v2: 5%, v1: 95}", "/versions/v1: has no unit (write 95%)"),
        ("versions: {v3: 5%, v1: 95%}", "/versions/v3: policy 'tested' is not in this engine in this version"),
        ("versions: {}", "must be an object of versions and their shares"),
        ("versions: v1", "must be an object of versions and their shares"),
        ("versions: {v1: 100%}, share: 5%", "share: {by: …}"),
        ("versions: {v1: 100%}, share: {percent: 5%}", "share: {by: …}"),
        ("versions: {v1: {share: 100%, parameters: {nonsense: 1}}}", "/versions/v1/parameters/nonsense"),
        ("versions: {v1: {parts: 100%}}", "'parts' is not a key of a version's share"),
    ],
)
def test_mistakes_in_versions(registry: Registry, entry: str, expected: str) -> None:
    assert expected in wrong(registry, chain(f"{{name: tested, {entry}}}"))


def test_alternatives(registry: Registry) -> None:
    found = policies(
        registry,
        "{name: tested, version: v1}",
        "{any_of: [{name: key, version: v1}, {name: token, version: v1, condition: 'true'}], mode: shadow, "
        "condition: request.path == '/', share: 50%}",
        "{any_of: [{name: key, version: v1, enabled: false}, {name: token, version: v1}]}",
        "{any_of: [{name: key, version: v1}], enabled: false}",
    )
    groups = [one.any_of for one in found]
    assert groups[0] is None
    assert groups[1] == groups[2] == AnyOf(1, "request.path == '/'", Share(0, HALF))
    assert groups[3] == groups[4] == AnyOf(2)
    assert groups[5] == AnyOf(3)
    assert [one.mode for one in found[1:3]] == [Mode.SHADOW, Mode.SHADOW]
    assert [one.enabled for one in found[3:]] == [False, True, False]
    assert found[2].condition == "true"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{any_of: [{name: tested, version: v1}]}", "tested v1.2.0 does not decide who gets in"),
        ("{any_of: [{name: late, version: v1}]}", "late v1.0.0 cannot be an alternative"),
        ("{any_of: [{name: key, version: v1, failure_mode: open}]}", "failure_mode: open has no meaning here"),
        ("{any_of: [{name: key, version: v1, mode: shadow}]}", "'mode' is not a key of an alternative"),
        ("{any_of: [{any_of: []}]}", "an alternative is a policy, neither a group nor a shared list"),
        ("{any_of: [use: x]}", "an alternative is a policy, neither a group nor a shared list"),
        ("{any_of: []}", "has no alternative that is enabled"),
        ("{any_of: [{name: key, version: v1, enabled: false}]}", "has no alternative that is enabled"),
        ("{any_of: {}}", "must be a list"),
        ("{any_of: [{name: key, version: v1}], name: key}", "'name' is not a key of a group of alternatives"),
        ("{any_of: [{name: key, version: v1}], failure_mode: open}", "'failure_mode' is not a key"),
        ("{any_of: [{name: key, version: v1}], condition: response.status == 1}", "is not a key"),
    ],
)
def test_mistakes_in_alternatives(registry: Registry, entry: str, expected: str) -> None:
    if "response.status" in entry:
        loaded = ChainReader(registry, check_condition=lambda text, phases: ["is not a key"] if phases else [])
        document, _ = read_document("f0.yaml", chain(entry).encode())
        assert document is not None
        assert loaded.read_documents([document]).chains is None
        return
    found = wrong(registry, chain(entry))
    assert expected in found
    assert "f0.yaml:5:" in found


SHARED = """
version: v1
shared:
  outer: [{name: tested, version: v1}, use: inner]
  inner:
  - {name: tested, version: v2}
  - {any_of: [{name: key, version: v1}, {name: token, version: v1}]}
routes:
- {route_key: a, policies: [use: outer, use: inner]}
- {route_key: b, policies: [{name: tested, version: v1}, use: inner]}
"""


def test_shared_lists_are_put_in_where_they_are_used(registry: Registry) -> None:
    spec = good(registry, SHARED)
    names = [[f"{one.name}@{one.version}" for one in route.policies] for route in spec.routes]
    inner = ["tested@v2.0.0", "key@v1.0.0", "token@v1.0.0"]
    assert names == [["tested@v1.2.0", *inner, *inner], ["tested@v1.2.0", *inner]]
    groups = [one.any_of.number for one in spec.routes[0].policies if one.any_of is not None]
    assert groups == [2, 2, 4, 4], "each use is a group of its own"


def test_a_list_of_one_file_is_there_for_all(registry: Registry) -> None:
    lists = "version: v1\nroutes: []\nshared: {x: [{name: tested, version: v1}]}"
    spec = good(registry, chain("use: x"), lists)
    assert [one.name for one in spec.routes[0].policies] == ["tested"]
    found = wrong(registry, lists, lists)
    assert "f1.yaml:3:10: /shared/x: the shared list 'x' is already defined in f0.yaml:3" in found


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        ("{x: [use: y], y: [use: z], z: [use: x]}", "use each other in a circle: x → y → z → x"),
        ("{x: [use: x]}", "use each other in a circle: x → x"),
        ("{x: [use: lst], list: []}", "there is no shared list 'lst'; did you mean 'list'?"),
        ("{x: [{use: 1}]}", "/shared/x/0/use: must be text"),
        ("{x: [{use: x, condition: a}]}", "'condition' is not a key of a use of a shared list"),
        ("{x: {}}", "must be a list of policies, not an object"),
        ("{x: null}", "must be a list of policies, not null"),
        ("[]", "must be an object of lists by name"),
        ("null", "must be an object, not null"),
        ("{x: [{name: tested}]}", "f0.yaml:2:14: /shared/x/0: lacks the required key 'version'"),
    ],
)
def test_mistakes_in_shared_lists(registry: Registry, shared: str, expected: str) -> None:
    routes = "routes: [{route_key: r, policies: [use: x]}, {route_key: s, policies: [use: x]}]"
    found = wrong(registry, f"version: v1\nshared: {shared}\n{routes}")
    assert expected in found
    assert found.count(expected) == 1, "once, however many routes use it"


def test_nesting_and_size_of_shared_lists_are_bounded(registry: Registry) -> None:
    deep = ", ".join(f"x{n}: [use: x{n + 1}]" for n in range(20)) + ", x20: []"
    assert "nested more than 8 deep: x0 → x1" in wrong(registry, f"version: v1\nshared: {{{deep}}}\n" + routes("x0"))
    wide = ", ".join(f"x{n}: [{', '.join([f'use: x{n + 1}'] * 100)}]" for n in range(6))
    wide += ", x6: [{name: tested, version: v1}]"
    assert "has more than 200 policies" in wrong(registry, f"version: v1\nshared: {{{wide}}}\n" + routes("x0"))


def routes(name: str) -> str:
    return f"routes: [{{route_key: r, policies: [use: {name}]}}]"


def test_a_list_that_nothing_uses_is_checked_and_warned_of(registry: Registry) -> None:
    text = "version: v1\nroutes: []\nshared: {x: [{name: tested, version: v1}, use: y], y: []}"
    loaded = read(registry, text)
    assert loaded.chains is not None
    (warning,) = loaded.diagnostics
    assert (warning.rule, warning.severity) == (Rule.UNUSED_LIST, Severity.WARNING)
    assert "no chain uses the shared list 'x'" in str(warning)
    assert "in this version" in wrong(registry, text.replace("v1}", "v9}"))


def test_keys_with_stars(registry: Registry) -> None:
    spec = good(
        registry,
        "version: v1\nroutes: [{route_key: '*', policies: [], body_limit: 1MiB}, {route_key: 'a/*', unmapped: deny},"
        " {route_key: 'b/*', unmapped: pass}]",
    )
    assert [(one.route_key, one.body_limit, one.unmapped) for one in spec.routes] == [
        ("*", 1 << 20, None),
        ("a/*", None, Unmapped.DENY),
        ("b/*", None, Unmapped.PASS),
    ]


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("{route_key: 'a**b', policies: []}", "has two stars side by side; one stands for any text"),
        (f"{{route_key: '{'*a' * 17}', policies: []}}", "has more than 16 stars"),
        ("{route_key: r, unmapped: deny, policies: []}", "stands beside `policies`"),
        ("{route_key: r, unmapped: denied}", "did you mean 'deny'?"),
        ("{route_key: r}", "lacks the required key 'policies'"),
        ("{route_key: r, policies: [], body_limit: 11MiB}", 'is too large (got "11MiB"); allowed: at most 10MiB'),
        ("{route_key: r, policies: [], body_limit: 1.5}", "must be a size"),
        ("{route_key: r, policies: [], body_limit: much}", "is not a size"),
    ],
)
def test_mistakes_in_routes(registry: Registry, route: str, expected: str) -> None:
    assert expected in wrong(registry, f"version: v1\nroutes: [{route}]")


def test_keys_that_nobody_could_tell_apart(registry: Registry) -> None:
    first = "version: v1\nroutes:\n- {route_key: 'a/*', policies: []}\n- {route_key: '*', policies: []}\n"
    second = "version: v1\nroutes:\n- {route_key: '*/b', policies: []}\n"
    found = wrong(registry, first, second)
    assert "f1.yaml:3:" in found
    assert "'*/b' and 'a/*' (f0.yaml:3) match the same keys and are equally specific" in found
    assert read(registry, first, second.replace("*/b", "*/bc")).chains is not None


OPEN = [
    ("{name: key, version: v1, mode: shadow}", "key is in shadow"),
    ("{name: key, version: v1, enabled: false}", "key is disabled"),
    ("{name: key, version: v1, share: 99.9999%}", "key runs for a share of the requests"),
    ("{name: key, version: v1, condition: request.method != 'OPTIONS'}", "key runs under a condition"),
    ("{any_of: [{name: key, version: v1}, {name: token, version: v1}], mode: shadow}", "the group any_of is in shadow"),
    ("{any_of: [{name: key, version: v1}], share: 5%}", "the group any_of runs for a share of the requests"),
]
CLOSED = [
    "{name: key, version: v1}",
    "{name: key, version: v1, share: 100%}",
    "{name: key, versions: {v1: 50%, v1.0.0: 50%}}",
    "{any_of: [{name: key, version: v1, condition: request.path == '/'}, {name: token, version: v1, share: 5%}]}",
]


@pytest.mark.parametrize(("entry", "reason"), OPEN)
def test_a_route_that_requests_can_pass_without_authentication_is_warned_of(
    registry: Registry, entry: str, reason: str
) -> None:
    loaded = read(registry, chain("{name: tested, version: v1}", entry))
    assert loaded.chains is not None
    (warning,) = loaded.diagnostics
    assert (warning.rule, warning.severity, warning.path) == (Rule.OPEN_ROUTE, Severity.WARNING, "/routes/0/policies")
    assert f"without any policy that decides who: {reason} (route" in str(warning)
    for other in CLOSED:
        assert read(registry, chain(entry, other)).diagnostics == ()
        assert read(registry, chain(other, entry)).diagnostics == ()
    assert reason in str(read(registry, chain(entry, *(one for one, _ in OPEN))).diagnostics[0])


def test_two_small_shares_of_one_policy_leave_a_route_open(registry: Registry) -> None:
    twice = ["{name: key, version: v1, share: 60%}"] * 2
    assert [one.rule for one in read(registry, chain(*twice)).diagnostics] == [Rule.OPEN_ROUTE]


def test_many_open_routes_are_told_in_few_words_and_stay_a_warning(registry: Registry, tmp_path: Path) -> None:
    entry = "policies: [{name: key, version: v1, mode: shadow}]"
    text = "version: v1\nroutes:\n" + "".join(f"- {{route_key: r{n}, {entry}}}\n" for n in range(1500))
    loaded = read(registry, text)
    assert loaded.chains is not None
    assert len(loaded.diagnostics) == 21
    assert "the same is so for 1480 more routes" in str(loaded.diagnostics[-1])
