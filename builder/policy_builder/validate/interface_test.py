"""The check of a policy's class from its source: what passes, and a test for each way to be wrong."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from policy_builder.validate.interface import check_interface, hook_parameters, signature
from policy_engine.sdk import Policy
from policy_engine.sdk.hooks import HOOKS
from policy_engine.worker.policies.manifest import parse_manifest

IMPORT = "from policy_engine.sdk import Policy\n"


def check(
    directory: Path, code: str, phases: str = "[request_headers]", entrypoint: str = "policy:P", **more: str
) -> list[str]:
    """Return the findings about a policy with `code` in policy.py and `more` files (`__` for the dot)."""
    manifest, found = parse_manifest(
        "p/policy.yaml",
        f"name: p\nversion: v1.0.0\ndescription: x\nentrypoint: {entrypoint}\nphases: {phases}\n".encode(),
    )
    assert manifest is not None, found
    files = {}
    for name, text in {"policy__py": code, **more}.items():
        path = directory / name.replace("__py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        files[path.relative_to(directory).as_posix()] = path
    libraries = {name.removeprefix("lib/"): path for name, path in files.items() if name.startswith("lib/")}
    own = {name: path for name, path in files.items() if not name.startswith("lib/")}
    return [str(one) for one in check_interface(manifest, "p", own, libraries)]


def class_with(*methods: str, base: str = "Policy") -> str:
    body = "\n".join(textwrap.indent(textwrap.dedent(method), "    ") for method in methods) or "    pass"
    return f"{IMPORT}\n\nclass P({base}):\n{body}\n"


HOOK = "def on_request_headers(self, request): ..."


@pytest.mark.parametrize(
    "code",
    [
        class_with(HOOK),
        class_with("async def on_request_headers(self, request): ..."),
        class_with("def on_request_headers(self, /, anything, more=None, *, option=1): ..."),
        class_with("def on_request_headers(*arguments): ..."),
        class_with("on_request_headers = something"),
        class_with(
            HOOK, "def __init__(self, parameters): ...", "def close(self): ...", "async def helper(self): yield 1"
        ),
        class_with("@staticmethod\ndef on_request_headers(request): ..."),
        class_with("def on_request_headers(self, request):\n    return [*(lambda: (yield))()] and None"),
        f"import policy_engine.sdk\n\n\nclass P(policy_engine.sdk.Policy):\n    {HOOK}\n",
        f"import policy_engine.sdk as sdk\n\n\nclass P(sdk.Policy):\n    {HOOK}\n",
        f"from policy_engine import sdk\n\n\nclass P(sdk.Policy):\n    {HOOK}\n",
        f"from policy_engine.sdk import Policy as Base\n\n\nclass P(Base):\n    {HOOK}\n",
        f"from policy_engine.sdk.policy import Policy\n\n\nclass P(Policy):\n    {HOOK}\n",
        f"{IMPORT}\n\nclass B(Policy):\n    {HOOK}\n\n\nclass P(B): ...\n",
        f"{IMPORT}\n\nclass Mixin:\n    {HOOK}\n\n\nclass P(Mixin, Policy): ...\n",
        f"{IMPORT}\ntry:\n    x = 1\nexcept OSError:\n    x = 0\n\nif x:\n    class P(Policy):\n        {HOOK}\n",
        f"{IMPORT}\n\nclass Q(Policy):\n    {HOOK}\n\n\nP = Q\n",
    ],
)
def test_accepted(tmp_path: Path, code: str) -> None:
    assert check(tmp_path, code) == []


def test_a_base_class_in_another_module_of_the_policy_or_of_a_library(tmp_path: Path) -> None:
    own = "from .base import B\n\n\nclass P(B): ...\n"
    base = f"{IMPORT}\n\nclass B(Policy):\n    {HOOK}\n"
    assert check(tmp_path / "own", own, base__py=base) == []
    assert (
        check(tmp_path / "lib", "from shared.base import B\n\n\nclass P(B): ...\n", **{"lib/shared/base__py": base})
        == []
    )


def test_the_class_may_be_imported_into_the_entrypoint_module(tmp_path: Path) -> None:
    assert (
        check(tmp_path, "from .other import Q as P\n", other__py=class_with(HOOK).replace("class P", "class Q")) == []
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "class P:\n    pass\n",
            "p/policy.yaml:4:13: /entrypoint: policy:P is not a subclass of policy_engine.sdk.Policy",
        ),
        ("class Policy: ...\n\n\nclass P(Policy): ...\n", "policy:P is not a subclass of policy_engine.sdk.Policy"),
        (class_with(HOOK).replace("class P", "class Q"), "module policy has no class 'P'"),
        (class_with(HOOK).replace("class P(", "class PP("), "did you mean 'PP'?; allowed: policy:PP"),
        ("class P(:\n", "p/policy.py:1:9: is not valid Python"),
        ("class P(Policy):\n  x = '\0'\n", "p/policy.py: is not valid Python"),
        (
            class_with("def on_request_header(self, request): ..."),
            "p/policy.py:5:1: P.on_request_header is no hook: the "
            "engine would never call it; did you mean 'on_request_headers'?",
        ),
        (class_with(HOOK, "def on_reqest_boby(self, request): ..."), "did you mean 'on_request_body'?"),
        (
            class_with("def on_request_headers(self): ..."),
            "p/policy.py:5:1: P.on_request_headers takes 1 arguments, but is "
            "called with 2 (self, request); allowed: def on_request_headers(self, request):",
        ),
        (class_with("def on_request_headers(self, request, response): ..."), "takes 3 arguments, but is called with 2"),
        (class_with("def on_request_headers(self, a, b, c=1): ..."), "takes 3 to 4 arguments"),
        (class_with("def on_request_headers(self, a, b, *c): ..."), "takes at least 3 arguments"),
        (class_with("def on_request_headers(self, request, *, key): ..."), "has a keyword argument without default"),
        (class_with("@property\ndef on_request_headers(self): ..."), "is a property, not a method"),
        (class_with("def on_request_headers(self, request):\n    yield 1"), "is a generator"),
        (class_with("async def on_request_headers(self, request):\n    yield 1"), "is a generator"),
        (
            class_with(HOOK, "def __init__(self): ..."),
            "P.__init__ takes 1 arguments, but is called with 2 (self, parameters)",
        ),
        (class_with(HOOK, "async def __init__(self, parameters): ..."), "P.__init__ must not be async"),
        (class_with(HOOK, "async def on_stream_end(self, request): ..."), "P.on_stream_end must not be async"),
        (
            class_with("blocking = True", "async def on_request_headers(self, request): ..."),
            "the class says blocking = True",
        ),
        (class_with(HOOK, "def close(self, now): ..."), "P.close takes 2 arguments, but is called with 1 (self)"),
        (
            class_with(),
            "p/policy.yaml:5:10: /phases/0: declares request_headers, but P has no on_request_headers; "
            "allowed: def on_request_headers(self, request):, or remove the phase",
        ),
        (
            class_with(HOOK, "def on_response_headers(self, request, response): ..."),
            "p/policy.py:6:1: P.on_response_headers "
            "would never run, since policy.yaml does not declare its phase; allowed: add response_headers to phases",
        ),
    ],
)
def test_refused(tmp_path: Path, code: str, expected: str) -> None:
    assert expected in "\n".join(check(tmp_path, code))


def test_the_module_of_the_entrypoint_must_be_there(tmp_path: Path) -> None:
    (finding,) = check(tmp_path, class_with(HOOK), entrypoint="main:P")
    assert "there is no module main (main.py) in the policy; allowed: policy.py" in finding


def test_a_hook_of_a_base_counts_and_its_mistake_is_told_where_it_is(tmp_path: Path) -> None:
    base = f"{IMPORT}\n\nclass B(Policy):\n    def on_request_headers(self): ...\n"
    (finding,) = check(tmp_path, "from .base import B\n\n\nclass P(B): ...\n", base__py=base)
    assert finding.startswith("p/base.py:5:1: P.on_request_headers takes 1 arguments")


def test_a_base_that_is_nowhere_is_said_to_be_unseen_and_no_phase_is_missed(tmp_path: Path) -> None:
    (finding,) = check(tmp_path, "from elsewhere import B\n\n\nclass P(B): ...\n")
    assert "warning: /entrypoint: base class B is not in the policy or its requirements" in finding


def test_names_that_look_like_hooks_are_warned_about(tmp_path: Path) -> None:
    for name in ("onRequestBody", "handle_request_body", "request_body"):
        (finding,) = check(tmp_path / name, class_with(HOOK, f"def {name}(self, request): ..."))
        assert "warning" in finding
        assert "'on_request_body'" in finding


def test_either_body_hook_makes_the_body_phase(tmp_path: Path) -> None:
    chunk = class_with("def on_request_chunk(self, request, chunk): ...")
    assert check(tmp_path, chunk, phases="[request_body]") == []
    (finding,) = check(tmp_path, class_with(), phases="[response_body]")
    assert "P has no on_response_body or on_response_chunk" in finding


def test_classes_that_inherit_from_each_other_do_not_hang_the_check(tmp_path: Path) -> None:
    findings = check(tmp_path, "class P(Q): ...\n\n\nclass Q(P): ...\n")
    assert findings


def test_every_hook_of_the_sdk_belongs_to_a_phase() -> None:
    hooks = {name for name in hook_parameters() if name.startswith("on_")}
    assert hooks - {"on_stream_end"} == {hook.name for hook in HOOKS}
    assert all(hasattr(Policy, name) for name in hooks)
    assert signature("on_response_chunk") == "def on_response_chunk(self, request, response, chunk):"
