"""The bytes written by hand are what the generated classes read, and mean to Envoy what the policies asked for."""

from __future__ import annotations

from random import Random

from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from hypothesis import example, given
from hypothesis import strategies as st

from policy_engine.kernel import wire
from policy_engine.sdk.headers import HeaderEdit

_names = st.sampled_from(["x-a", "x-b", "x-c", ":path", "n" * 200])
_values = st.one_of(st.binary(max_size=6), st.sampled_from([b"", b"v" * 127, b"v" * 128, b"v" * 16_384]))
_edits = st.builds(
    HeaderEdit,
    st.lists(_names, max_size=2).map(tuple),
    st.lists(st.tuples(_names, _values, st.booleans()), max_size=4).map(tuple),
)

Held = dict[str, list[bytes]]


def start() -> Held:
    return {"x-a": [b"old"], "x-b": [b"1", b"2"]}


def change(headers: Held, name: str, value: bytes, append: bool) -> None:
    headers[name] = [*headers.get(name, ()), value] if append else [value]


def one_policy_after_the_other(edits: list[HeaderEdit]) -> Held:
    headers = start()
    for edit in edits:
        for name in edit.removed:
            headers.pop(name, None)
        for name, value, append in edit.changed:
            change(headers, name, value, append)
    return headers


def as_envoy_applies(mutation: ext_proc.HeaderMutation) -> Held:
    """All removals first, then what is set, in order (envoy mutation_utils.cc)."""
    headers = start()
    for name in mutation.remove_headers:
        headers.pop(name, None)
    for one in mutation.set_headers:
        append = one.append.value
        expected = (
            base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
            if append
            else base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        )
        assert one.append_action == expected
        change(headers, one.header.key, one.header.raw_value, append)
    return headers


@given(edits=st.lists(_edits, max_size=4))
@example(edits=[HeaderEdit((), (("x-a", b"1", False),)), HeaderEdit(("x-a",), ())])
@example(edits=[HeaderEdit(("x-a",), ()), HeaderEdit((), (("x-a", b"1", True),))])
def test_envoy_ends_up_with_what_the_policies_made(edits: list[HeaderEdit]) -> None:
    mutation = ext_proc.HeaderMutation.FromString(wire.header_mutation(edits))
    assert as_envoy_applies(mutation) == one_policy_after_the_other(edits)
    # A second time, when every edit has kept its bytes.
    assert ext_proc.HeaderMutation.FromString(wire.header_mutation(edits)) == mutation


@given(edits=st.lists(_edits, min_size=1, max_size=3))
def test_a_headers_reply_is_the_message_of_the_generated_classes(edits: list[HeaderEdit]) -> None:
    mutation = wire.header_mutation(edits)
    expected = ext_proc.ProcessingResponse()
    expected.response_headers.response.header_mutation.MergeFromString(mutation)
    reply = wire.headers_reply(b"\x12", wire.mutation_field(mutation))
    assert ext_proc.ProcessingResponse.FromString(reply) == expected
    assert wire.mutation_reply(b"\x12", mutation) == reply


@given(edits=st.lists(_edits, min_size=2, max_size=4), order=st.randoms(use_true_random=False))
def test_what_is_remembered_of_names_is_that_of_these_edits_in_this_order(
    edits: list[HeaderEdit], order: Random
) -> None:
    for _ in range(3):
        # As policies make them anew for each request: with other values.
        made = [
            HeaderEdit(
                one.removed, tuple((name, b"%d" % order.randint(0, 99), append) for name, _, append in one.changed)
            )
            for one in edits
        ]
        mutation = ext_proc.HeaderMutation.FromString(wire.header_mutation(made))
        assert as_envoy_applies(mutation) == one_policy_after_the_other(made)
        order.shuffle(edits)


@given(st.integers(0, 2**31))
def test_lengths_are_varints(size: int) -> None:
    made = ext_proc.ProcessingResponse.FromString(b"\x0a\x04\x0a\x02\x08\x00" + b"\xf8\x07" + wire.length(size))
    assert made.HasField("request_headers")
    assert int.from_bytes(wire.length(size)[-1:], "big") < 0x80
    assert sum((one & 0x7F) << 7 * place for place, one in enumerate(wire.length(size))) == size


@given(
    status=st.integers(200, 599),
    edits=st.lists(_edits, max_size=2),
    body=st.binary(max_size=300),
    grpc_status=st.none() | st.integers(0, 16),
    details=st.text(max_size=40),
)
def test_an_immediate_response_is_the_message_of_the_generated_classes(
    status: int, edits: list[HeaderEdit], body: bytes, grpc_status: int | None, details: str
) -> None:
    mutation = wire.header_mutation(edits)
    expected = ext_proc.ProcessingResponse()
    expected.immediate_response.status.code = status
    if mutation:
        expected.immediate_response.headers.MergeFromString(mutation)
    expected.immediate_response.body = body
    if grpc_status is not None:
        expected.immediate_response.grpc_status.status = grpc_status
    expected.immediate_response.details = details
    made = wire.immediate_response(status, mutation, body, grpc_status, details)
    assert ext_proc.ProcessingResponse.FromString(made) == expected
