"""A real browser that loads one page, whose script tells what it saw: headless Chromium of the machine."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BINARY_VARIABLE = "BROWSER_BINARY"
_NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
_PAGE = """<!doctype html><meta charset="utf-8"><script>
const run = async () => { %s };
run().catch((error) => `${error.name}: ${error.message}`)
     .then((seen) => fetch("/seen", {method: "POST", body: JSON.stringify(seen)}));
</script>"""


def browser_binary() -> str | None:
    """Return the path of a browser, None when the machine has none; `BROWSER_BINARY` goes before what is installed."""
    named = os.environ.get(BINARY_VARIABLE)
    return named or next((found for name in _NAMES if (found := shutil.which(name))), None)


class PageServer:
    """Serves one page at an origin of its own and takes what the page's script returns."""

    def __init__(self) -> None:
        self._page = b""
        self._seen: queue.Queue[Any] = queue.Queue()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(outer._page if self.path == "/" else b"")

            def do_POST(self) -> None:
                outer._seen.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self._reply(b"")

            def _reply(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # the name of the base class
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def run(self, binary: str, script: str, timeout_s: float) -> Any:
        """Return what the body of an async function, `script`, returns in the browser, or the text of its error."""
        self._page = (_PAGE % script).encode()
        # Processes of the browser may still write into it when their parent is gone.
        with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
            command = [binary, *_FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", f"{self.origin}/"]
            null = subprocess.DEVNULL
            with subprocess.Popen(command, stdout=null, stderr=null, start_new_session=True) as process:
                try:
                    return self._seen.get(timeout=timeout_s)
                finally:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def serve(self) -> None:
        """Serve until `close`."""
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def page_server() -> Iterator[PageServer]:
    """Serve a page."""
    server = PageServer()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
