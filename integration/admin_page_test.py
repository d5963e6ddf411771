"""The admin page of a running engine in a headless Chromium: figures that live, hostile names that do nothing, pictures.

Needs a browser on the machine (Debian: chromium-headless-shell), so that it is run by name. With `PICTURES` set to a
directory it writes the pictures of docs/ there: `PICTURES=docs/pictures python -m pytest integration/admin_page_test.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.harness.browser import browser_binary
from integration.harness.chain_file import policy
from integration.runtime_stack import Runtime, generated

POLICIES = Path(__file__).parent.parent / "policies"
KEYS = {"keys": [{"client": "mobile", "sha256": "477739a1d440eb56e7a2aa8b2ae592b43568448c046c22bc2d63bc36009cbc48"}]}
HOSTILE = "<img src=x onerror=document.title=1>"
TIMEOUT_S = 90.0
MOST_BYTES = 150_000

pytestmark = pytest.mark.skipif(browser_binary() is None, reason="no browser on this machine")


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    keys = policy("api-key-validation", "v1", KEYS, failure_mode="open", condition='request.path != "/public"')
    headers = policy("set-header", "v1", {"request": {"set": {"x-tenant": HOSTILE}}})
    shadow = policy("csrf", "v1", {}, mode="shadow")
    with generated(
        {"orders": [headers, keys], "payments": [keys, shadow], "public": [headers]}, policies=POLICIES
    ) as started:
        yield started


def browse(port: int, *flags: str, target: str = "/") -> str:
    """Return the page's document after its script has run for some seconds."""
    binary = browser_binary()
    assert binary is not None
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        command = [
            binary,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ]
        command += [
            f"--user-data-dir={profile}",
            "--virtual-time-budget=9000",
            *flags,
            f"http://127.0.0.1:{port}{target}",
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout


def busy(runtime: Runtime, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        runtime.send("/public/x")
        runtime.send("/orders/7")


@pytest.fixture(scope="module")
def traffic(runtime: Runtime) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=busy, args=(runtime, stop))
    thread.start()
    yield
    stop.set()
    thread.join()


def test_the_page_lives_and_hostile_text_does_not(runtime: Runtime, traffic: None) -> None:
    runtime.send(f"/orders/{'%3Cscript%3E'}", headers=[("x-api-key", "wrong")])
    seen = browse(runtime.engine.admin.port, "--dump-dom")
    assert "<title>Policy engine</title>" in seen
    assert re.search(r'id="requests-rate">\d+\.\d/s<', seen), seen[:3000]
    assert re.search(r'id="latency">p50 ≤ ', seen)
    assert "&lt;img src=x onerror=document.title=1&gt;" in seen
    assert "<img" not in seen
    assert "policy-engine explain" in seen


def test_pictures_are_small(runtime: Runtime, traffic: None, tmp_path: Path) -> None:
    where = Path(os.environ.get("PICTURES", tmp_path)).absolute()
    for name, size, flags in (
        ("admin-page", "1000,640", ()),
        ("admin-page-dark-phone", "390,700", ("--blink-settings=preferredColorScheme=0",)),
    ):
        picture = where / f"{name}.png"
        browse(runtime.engine.admin.port, f"--screenshot={picture}", f"--window-size={size}", *flags)
        assert 1000 < picture.stat().st_size < MOST_BYTES
