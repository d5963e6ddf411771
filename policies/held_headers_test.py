"""No header makes a policy hold the event loop: each policy gets headers that are dear to read, and long ones.

Every policy is found by itself, and made with each of its examples that asks no other server for anything.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from policy_engine.sdk import Policy
from policy_engine.sdk.testing import policy_class, request, response
from policy_engine.worker.policies.parameters import ParameterSchema

ROOT = Path(__file__).parent
DIRECTORIES = sorted(path.parent for path in ROOT.glob("*/v*/policy.yaml"))

HELD_SECONDS = 0.1
"""What fails: processor time for one request; five times what is promised, for slow machines."""

SIZES = (1 << 10, 1 << 13)
"""Growing, so that what is quadratic fails before it takes minutes."""

NAMES = (
    *("accept", "accept-encoding", "accept-language", "age", "authorization", "cache-control", "content-encoding"),
    *("content-length", "content-type", "cookie", "date", "etag", "expires", "forwarded", "if-none-match", "link"),
    *("mcp-method", "mcp-name", "origin", "pragma", "sec-fetch-site", "stripe-signature", "traceparent", "upgrade"),
    *(
        "vary",
        "via",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
        "x-api-key",
        "x-client",
        "x-forwarded-for",
    ),
    *("x-forwarded-client-cert", "x-forwarded-proto", "x-hub-signature-256", "x-request-id", "x-sent-at"),
    *("x-signature", "x-slack-request-timestamp", "x-slack-signature", "x-tenant", "x-user"),
)
"""What policies read, and others that their examples may name."""

UNITS = (
    *("a", "1", " ", ",", ";", "=", '"', "\\", ".", "/", "%", ":", "-", "é", "[", "&", "a,", '"a",', "a=b;", 'a="'),
    *('a="\\"";', "%41", "a.", "../", "gzip;q=0.1,", " ,", ' "', "v1,", "v1=00,", "::", "1.", "Bearer "),
)
FRAMES = (("", ""), ("a=", '"'))


def dear(size: int) -> Iterator[str]:
    """Yield values of about `size` characters that near misses of some grammar are made of."""
    for unit in UNITS:
        for beginning, end in FRAMES:
            yield f"{beginning}{unit * (size // len(unit))}{end}".strip(" ")


def policies(directory: Path) -> list[Policy]:
    document = yaml.safe_load((directory / "policy.yaml").read_text())
    schema, kind = ParameterSchema(document["parameters"]), policy_class(directory)
    checked = [schema.check(one["parameters"]).parameters for one in document["examples"]]
    return [kind(one) for one in checked if not {'"redis"', '"url"'} & set(json.dumps(one).replace(":", " ").split())]


def taken(hook: Callable[..., Any], *given: Any) -> float:
    began = time.thread_time()
    result = hook(*given)
    took = time.thread_time() - began
    if inspect.iscoroutine(result):
        result.close()
    return took


def held(policy: Policy, value: str) -> float:
    """Return the processor time of the hooks for headers, of a request and a response with this value everywhere."""
    headers = dict.fromkeys(NAMES, value)
    asked = request("POST", f"/{value}", headers={**headers, ":authority": value})
    answer = response(200, headers=headers)
    took = 0.0
    if hasattr(policy, "on_request_headers"):
        took += taken(policy.on_request_headers, asked)
    if hasattr(policy, "on_response_headers"):
        took += taken(policy.on_response_headers, asked, answer)
    return took


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_no_header_holds_the_loop(directory: Path) -> None:
    made = policies(directory)
    assert made
    for size in SIZES:
        for value in dear(size):
            for policy in made:
                took = held(policy, value)
                assert took < HELD_SECONDS, (size, value[:20], value[-3:])
