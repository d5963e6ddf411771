"""The wire form of a chain: equal to the published .proto, exact, and strict about what comes in."""

import importlib.resources
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sources.xds import chain as xds_chain

PROTOS = Path(__file__).resolve().parents[4] / "protos"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)

policies = st.fixed_dictionaries(
    {
        "name": st.text(min_size=1),
        "version": st.text(),
        "failure_mode": st.sampled_from(["closed", "open"]),
        "parameters": st.dictionaries(st.text(), json_values, max_size=4),
    },
    optional={
        "enabled": st.booleans(),
        "condition": st.text(min_size=1),
        "timeout": st.integers(1, 10**9).map(lambda ms: f"{ms}ms"),
    },
)

chains = st.fixed_dictionaries({"route_key": st.text(min_size=1), "policies": st.lists(policies, max_size=4)})


def test_the_description_in_python_is_the_published_proto_file(tmp_path: Path) -> None:
    from grpc_tools import protoc

    out = tmp_path / "set.pb"
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    code = protoc.main(
        ["protoc", f"-I{PROTOS}", f"-I{well_known}", f"--descriptor_set_out={out}", xds_chain.PROTO_FILE]
    )
    assert code == 0
    (compiled,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    assert compiled == xds_chain.file_descriptor()


@given(chains)
def test_what_is_encoded_comes_back(chain: dict[str, Any]) -> None:
    assert xds_chain.decode(xds_chain.encode(chain)) == chain


@given(chains)
def test_the_order_of_parameters_does_not_change_the_bytes(chain: dict[str, Any]) -> None:
    turned = {
        **chain,
        "policies": [
            {**policy, "parameters": dict(reversed(policy["parameters"].items()))} for policy in chain["policies"]
        ],
    }
    assert xds_chain.encode(turned) == xds_chain.encode(chain)


def test_whole_numbers_come_back_as_int() -> None:
    chain = {"route_key": "r", "policies": [{"name": "p", "version": "v1", "parameters": {"limit": 10, "rate": 0.5}}]}
    (policy,) = xds_chain.decode(xds_chain.encode(chain))["policies"]
    assert type(policy["parameters"]["limit"]) is int
    assert type(policy["parameters"]["rate"]) is float


def test_absent_fields_get_the_safe_meaning() -> None:
    chain = xds_chain.PolicyChain(name="r")
    chain.policies.add(name="p", version="v1")
    (policy,) = xds_chain.decode(chain.SerializeToString())["policies"]
    assert policy == {"name": "p", "version": "v1", "failure_mode": "closed", "parameters": {}}


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused_or_read_but_never_break(wire: bytes) -> None:
    try:
        chain = xds_chain.decode(wire)
    except xds_chain.ChainError:
        return
    assert chain["route_key"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2**53 + 1, "2^53"),
        (math.inf, "not a JSON number"),
        (math.nan, "not a JSON number"),
        (b"bytes", "not a JSON value"),
    ],
)
def test_what_the_wire_cannot_carry_is_refused_with_its_path(value: object, reason: str) -> None:
    chain = {"route_key": "r", "policies": [{"name": "p", "version": "v1", "parameters": {"a/b": [value]}}]}
    with pytest.raises(xds_chain.ChainError) as caught:
        xds_chain.encode(chain)
    assert caught.value.path == "/policies/0/parameters/a~1b/0"
    assert reason in str(caught.value)


def _with(change: Callable[[Any], object]) -> bytes:
    chain = xds_chain.PolicyChain(name="r")
    instance = chain.policies.add(name="p", version="v1")
    change(instance)
    return bytes(chain.SerializeToString())


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda p: setattr(p, "failure_mode", 7), "/policies/0/failure_mode"),
        (lambda p: setattr(p.timeout, "seconds", -1), "/policies/0/timeout"),
        (lambda p: p.timeout.SetInParent(), "/policies/0/timeout"),
        (lambda p: setattr(p.timeout, "nanos", 1), "/policies/0/timeout"),
        (lambda p: p.parameters.fields["x"].SetInParent(), "/policies/0/parameters/x"),
        (lambda p: setattr(p.parameters.fields["x"], "number_value", math.nan), "/policies/0/parameters/x"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_path_and_chain(change: Callable[[Any], object], path: str) -> None:
    with pytest.raises(xds_chain.ChainError) as caught:
        xds_chain.decode(_with(change))
    assert caught.value.path == path
    assert caught.value.route_key == "r"


def test_a_chain_without_a_name_is_refused() -> None:
    with pytest.raises(xds_chain.ChainError, match="no name"):
        xds_chain.decode(xds_chain.PolicyChain().SerializeToString())


WHOLE_ENTRIES = [
    {"name": "p", "version": "v1", "mode": "shadow", "parameters": {"a": 1, "b": 0.5}, "timeout": "90us"},
    {"any_of": [{"name": "p", "version": "v1"}, {"name": "q", "version": "v1"}], "condition": "true"},
    {"name": "p", "versions": {"v1": "95%", "v2": {"share": "5%", "parameters": {}}}, "share": {"by": "request.path"}},
]


@pytest.mark.parametrize("entry", WHOLE_ENTRIES)
def test_an_entry_of_any_form_comes_back_whole_and_is_nothing_to_an_engine_that_does_not_know_it(entry: Any) -> None:
    wire = xds_chain.encode({"route_key": "r", "policies": [entry]})
    assert xds_chain.decode(wire) == {"route_key": "r", "policies": [entry]}
    (sent,) = xds_chain.PolicyChain.FromString(wire).policies
    assert (sent.name, sent.version) == ("", "")


def test_settings_of_a_chain_come_back_and_none_of_it_runs_without_them() -> None:
    chain = {"route_key": "r", "policies": [{"name": "p", "version": "v1"}], "body_limit": 1000}
    wire = xds_chain.encode(chain)
    assert xds_chain.decode(wire) == chain
    assert [one.name for one in xds_chain.PolicyChain.FromString(wire).policies] == [""]
    unmapped = {"route_key": "r/*", "unmapped": "deny"}
    assert xds_chain.decode(xds_chain.encode(unmapped)) == unmapped


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda chain: chain.settings.update({"policies": []}), "/settings/policies"),
        (lambda chain: chain.settings.fields["x"].SetInParent(), "/settings/x"),
        (lambda chain: chain.policies.add(name="p").entry.update({"name": "p"}), "/policies/0/entry"),
    ],
)
def test_what_contradicts_itself_is_refused(change: Callable[[Any], object], path: str) -> None:
    chain = xds_chain.PolicyChain(name="r")
    change(chain)
    with pytest.raises(xds_chain.ChainError) as caught:
        xds_chain.decode(chain.SerializeToString())
    assert (caught.value.path, caught.value.route_key) == (path, "r")


def test_what_the_wire_cannot_carry_in_a_whole_entry_is_refused_with_its_path() -> None:
    entry = {"name": "p", "version": "v1", "mode": "shadow", "parameters": {"limit": 2**53 + 1}}
    with pytest.raises(xds_chain.ChainError) as caught:
        xds_chain.encode({"route_key": "r", "policies": [entry]})
    assert caught.value.path == "/policies/0/parameters/limit"
