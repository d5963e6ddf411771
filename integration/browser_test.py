"""A page of another origin reads a denial behind `cors` with a real fetch, in a headless Chromium.

Needs a browser on the machine (Debian: chromium-headless-shell), so that it is run by name:
`bazelw test //integration:browser_test`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.harness.browser import PageServer, browser_binary, page_server
from integration.harness.chain_file import policy
from integration.runtime_stack import Runtime, generated

POLICIES = Path(__file__).parent.parent / "policies"
KEYS = {"keys": [{"client": "mobile", "sha256": "477739a1d440eb56e7a2aa8b2ae592b43568448c046c22bc2d63bc36009cbc48"}]}
TIMEOUT_S = 60.0

pytestmark = pytest.mark.skipif(browser_binary() is None, reason="no browser on this machine")

READS = """
const answer = await fetch("http://127.0.0.1:%d/%s/orders", {headers: %s});
return {
  status: answer.status,
  type: answer.headers.get("content-type"),
  id: answer.headers.get("x-request-id"),
  body: await answer.text(),
};
"""


@pytest.fixture(scope="module")
def page() -> Iterator[PageServer]:
    with page_server() as server:
        yield server


@pytest.fixture(scope="module")
def runtime(page: PageServer) -> Iterator[Runtime]:
    cors = policy(
        "cors",
        "v1.0.0",
        {"allow_origins": [page.origin], "allow_headers": ["x-api-key"], "expose_headers": ["x-request-id"]},
    )
    denies = policy("api-key-validation", "v1.0.0", KEYS)
    with generated({"behind": [cors, denies], "before": [denies, cors]}, policies=POLICIES) as started:
        yield started


def seen(page: PageServer, runtime: Runtime, route: str, **headers: str) -> Any:
    binary = browser_binary()
    assert binary is not None
    return page.run(binary, READS % (runtime.envoy.port, route, json.dumps(headers)), TIMEOUT_S)


WRONG, GOOD = {"x-api-key": "wrong"}, {"x-api-key": "mobile-key-1"}


# Without a header of its own the request is a simple one; with it, a preflight goes before (Fetch, 4.8).
@pytest.mark.parametrize(("headers", "status", "title"), [({}, 401, "Unauthorized"), (WRONG, 403, "Forbidden")])
def test_a_page_reads_status_and_body_of_a_denial_behind_cors(
    page: PageServer, runtime: Runtime, headers: dict[str, str], status: int, title: str
) -> None:
    found = seen(page, runtime, "behind", **headers)
    problem = json.loads(found["body"])
    assert (found["status"], found["type"]) == (status, "application/problem+json")
    assert (problem["title"], problem["request_id"]) == (title, found["id"])


def test_it_reads_what_passes_too(page: PageServer, runtime: Runtime) -> None:
    assert seen(page, runtime, "behind", **GOOD)["status"] == 200


@pytest.mark.parametrize("headers", [{}, WRONG])
def test_a_denial_that_cors_does_not_see_is_closed_to_it(
    page: PageServer, runtime: Runtime, headers: dict[str, str]
) -> None:
    assert seen(page, runtime, "before", **headers) == "TypeError: Failed to fetch"
