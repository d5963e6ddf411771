"""The table of hooks is whole, is true of the interface, and is the only one."""

from __future__ import annotations

import ast
import typing
from pathlib import Path

import policy_engine
from policy_engine.sdk import Policy
from policy_engine.sdk import policy as interface
from policy_engine.sdk.hooks import HOOKS, REQUEST_PHASES, Phase, chunk_hook, names_of, phases_of

_ENGINE = Path(policy_engine.__file__ or "").parent
_OTHERS = ("builder/policy_builder", "controlplane/policy_control_plane")  # not there when only the engine is tested
_MAY_NAME_HOOKS = {
    "sdk/hooks.py",
    "scaffold.py",  # writes the policy an author starts from
    "kit/agreement_test.py",
}


def test_every_hook_of_the_interface_is_in_the_table_and_in_its_order() -> None:
    methods = [name for name in vars(Policy) if name.startswith("on_") and name != "on_stream_end"]
    assert methods == [hook.name for hook in HOOKS]
    assert [phase for phase in Phase if names_of(phase)] == list(Phase)


def test_what_a_hook_may_return_is_what_its_signature_says() -> None:
    names = {**vars(interface), **vars(typing)}
    for hook in HOOKS:
        said = typing.get_type_hints(getattr(Policy, hook.name), names)["return"]
        assert {one for one in typing.get_args(said) if isinstance(one, type) and one is not type(None)} == hook.accepts


def test_phases_and_body_hooks() -> None:
    class Mine(Policy):
        on_request_chunk = on_response_trailers = lambda *_: None  # type: ignore[assignment] # any hook

    assert phases_of(Mine) == {Phase.REQUEST_BODY, Phase.RESPONSE_TRAILERS}
    assert phases_of(Policy) == frozenset()
    assert chunk_hook(Phase.RESPONSE_BODY).name == "on_response_chunk"
    assert {Phase.REQUEST_HEADERS, Phase.REQUEST_BODY, Phase.REQUEST_TRAILERS} == REQUEST_PHASES


def test_no_other_module_names_hooks() -> None:
    """A hook's name in a string elsewhere is the beginning of a second table."""
    known = {hook.name for hook in HOOKS}
    found = []
    for root in (_ENGINE, *(_ENGINE.parents[1] / other for other in _OTHERS)):
        for path in root.rglob("*.py"):
            name = path.relative_to(root).as_posix()
            if name in _MAY_NAME_HOOKS or name.endswith("_test.py") or name.endswith("testworld.py"):
                continue
            texts = [node.value for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Constant)]
            found += [f"{root.name}/{name}: {text}" for text in texts if text in known]
    assert found == []
