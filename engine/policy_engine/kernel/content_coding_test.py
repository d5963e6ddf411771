"""Compressed bodies: what is correct is read whatever its shape, what is not costs no more than its size."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import brotli
import pytest

from policy_engine.kernel import coding_threads
from policy_engine.kernel.coding_threads import AT_ONCE, decoded, encoded
from policy_engine.kernel.content_coding import MOST_MEMBERS, BodyTooLarge, UndecodableBody, decode, encode
from policy_engine.sdk import Policy, Request, RequestMutation, Response, ResponseMutation
from testsupport.chains import engine
from testsupport.envoy_messages import body, parse, request_headers, response_headers

LIMIT = 4 << 20
RANDOM = random.Random(7).randbytes(200_000)
BODIES = {
    "empty": b"",
    "short": b"abc",
    "zeros": bytes(LIMIT),
    "repeated": b"0123456789abcdef" * (LIMIT // 16),
    "random": RANDOM,
    "random then zeros": RANDOM + bytes(LIMIT - len(RANDOM)),
    "zeros then random": bytes(LIMIT - len(RANDOM)) + RANDOM,
}


def _raw(data: bytes, level: int) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


CODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    **{f"gzip {level}": ("gzip", partial(gzip.compress, compresslevel=level)) for level in (1, 6, 9)},
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", lambda data: _raw(data, 6)),
    **{f"br {quality}": ("br", partial(brotli.compress, quality=quality)) for quality in (0, 1, 4, 5)},
    "br, large window": ("br", lambda data: brotli.compress(data, quality=4, lgwin=24)),
    "br, small window": ("br", lambda data: brotli.compress(data, quality=4, lgwin=10)),
    "ours, gzip": ("gzip", lambda data: encode(data, ("gzip",))),
    "ours, deflate": ("deflate", lambda data: encode(data, ("deflate",))),
    "ours, br": ("br", lambda data: encode(data, ("br",))),
}


@pytest.mark.parametrize("shape", BODIES)
@pytest.mark.parametrize("coder", CODERS)
def test_what_was_encoded_is_decoded_whatever_its_shape(coder: str, shape: str) -> None:
    coding, compress = CODERS[coder]
    data = BODIES[shape]
    sent = compress(data)
    assert decode(sent, (coding,), LIMIT) == data
    if data:
        with pytest.raises(BodyTooLarge):
            decode(sent, (coding,), len(data) - 1) if len(sent) < len(data) else decode(data, (), len(data) - 1)
        with pytest.raises(UndecodableBody):
            decode(sent[:-1], (coding,), LIMIT)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_bomb_stops_at_the_limit(coding: str) -> None:
    bomb = encode(bytes(50 << 20), (coding,))
    with pytest.raises(BodyTooLarge):
        decode(bomb, (coding,), 1 << 20)


def test_two_codings_are_undone_in_their_order() -> None:
    data = BODIES["repeated"]
    assert decode(encode(data, ("br", "gzip")), ("br", "gzip"), LIMIT) == data
    with pytest.raises(UndecodableBody):
        decode(b"", ("gzip", "gzip", "gzip"), LIMIT)


def test_members_of_gzip_follow_one_another_up_to_a_number() -> None:
    blocked = b"".join(gzip.compress(RANDOM[at : at + 60_000]) for at in range(0, len(RANDOM), 60_000))
    assert decode(blocked, ("gzip",), LIMIT) == RANDOM
    assert decode(gzip.compress(b"") * MOST_MEMBERS, ("gzip",), LIMIT) == b""
    with pytest.raises(UndecodableBody, match="members"):
        decode(gzip.compress(b"a") * (MOST_MEMBERS + 1), ("gzip",), LIMIT)


HOSTILE: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "empty members": ("gzip", lambda size: gzip.compress(b"") * (size // 20)),
    "members up to the number": (
        "gzip",
        lambda size: gzip.compress(random.Random(1).randbytes(size // 900), 0) * 800,
    ),
    "stored blocks of nothing": ("deflate", lambda size: b"\x78\x9c" + b"\0\0\0\xff\xff" * (size // 5)),
    "raw stored blocks of nothing": ("deflate", lambda size: b"\0\0\0\xff\xff" * (size // 5)),
    "flushes": ("gzip", lambda size: b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\0\0\0\xff\xff" * (size // 5)),
    "empty metablocks": ("br", lambda size: b"\x0b" + b"\x06" * size),
    "header without end": ("gzip", lambda size: b"\x1f\x8b\x08\x08\0\0\0\0\0\3" + b"n" * size),
    "one long run": ("br", lambda size: brotli.compress(bytes(size), quality=1)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_cost_is_linear(name: str) -> None:
    coding, make = HOSTILE[name]

    def cost(size: int) -> float:
        sent, times = make(size), []
        for _ in range(3):
            began = time.process_time()
            with contextlib.suppress(UndecodableBody):
                decode(sent, (coding,), 64 << 20)
            times.append(time.process_time() - began)
        return min(times)

    small, large = cost(1 << 20), cost(4 << 20)
    assert large < 10 * small + 0.02, f"1 MiB takes {small:.3f} s, 4 MiB {large:.3f} s"


def test_small_bodies_are_decoded_at_once_and_others_in_a_thread() -> None:
    small, large = encode(b"abc", ("gzip",)), encode(bytes(LIMIT), ("gzip",))
    assert decoded(small, ("gzip",), LIMIT) == b"abc"
    assert encoded(b"abc", ("gzip",)) == small
    assert decoded(bytes(LIMIT), (), LIMIT) == bytes(LIMIT)
    # Small as it comes, large when decoded.
    assert len(large) < AT_ONCE

    async def away() -> None:
        pending = decoded(large, ("gzip",), LIMIT)
        assert not isinstance(pending, bytes)
        assert await pending == bytes(LIMIT)
        again = encoded(bytes(LIMIT), ("br",))
        assert not isinstance(again, bytes)
        assert decode(await again, ("br",), LIMIT) == bytes(LIMIT)

    asyncio.run(away())


class Reverse(Policy):
    """Sends bodies on in reverse."""

    def on_request_body(self, request: Request) -> RequestMutation:
        """Reverse the request's."""
        return RequestMutation(body=(request.body or b"")[::-1])

    def on_response_body(self, request: Request, response: Response) -> ResponseMutation:
        """Reverse the response's."""
        return ResponseMutation(body=(response.body or b"")[::-1])


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
@pytest.mark.parametrize("data", [b"abc", b"ab" * 300_000], ids=["small", "large"])
def test_both_sides_are_decoded_for_policies_and_encoded_again(coding: str, data: bytes) -> None:
    headers = [("content-encoding", coding)]

    async def exchange() -> None:
        session = engine(Reverse).session()
        session.receive(request_headers(method="POST", end=False, pairs=headers))
        reply = parse(await settle_in(session.receive(body("request", encode(data, (coding,))))))
        changed = reply.request_body.response.body_mutation.body
        assert decode(changed, (coding,), LIMIT) == data[::-1]
        session.receive(response_headers(200, headers))
        reply = parse(await settle_in(session.receive(body("response", encode(data, (coding,))))))
        changed = reply.response_body.response.body_mutation.body
        assert decode(changed, (coding,), LIMIT) == data[::-1]

    asyncio.run(exchange())


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 413), (100, 415)])
def test_what_a_thread_refuses_is_refused_as_at_once(size: int, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding_threads, "AT_ONCE", 10)

    async def exchange() -> None:
        session = engine(Reverse, body_limit=1 << 20).session()
        session.receive(request_headers(method="POST", end=False, pairs=[("content-encoding", "gzip")]))
        sent = gzip.compress(bytes(size))
        reply = parse(await settle_in(session.receive(body("request", sent if status == 413 else sent[:-1]))))
        assert reply.immediate_response.status.code == status

    asyncio.run(exchange())


async def settle_in(result: Any) -> Any:
    """Wait for what a session answers later."""
    return await result if hasattr(result, "__await__") else result
