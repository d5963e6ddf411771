"""The load: wrk at full speed and h2load at a fixed rate, as programs of the machine, with one form of outcome.

Both are compiled and cheap, so that they take little of the machine from what is measured. wrk has no fixed rate,
h2load prints no percentiles: its log of requests has what is needed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_GRACE_S = 30.0
"""How much longer than asked a generator may take before it is ended."""

ORDINARY_HEADERS: Mapping[str, str] = {
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "accept": "application/json, text/plain;q=0.9, */*;q=0.8",
    "accept-language": "en-US,en;q=0.5",
    "accept-encoding": "gzip, deflate, br",
    "cookie": "session=5f1c9e0b7d3a4c2e8a6b",
    "x-api-key": "benchmark-key-1",
}
"""Headers of every request; the key is the one that the chains with `api-key-validation` know."""


class LoadError(RuntimeError):
    """A generator is not installed, or did not do what it was asked; the message carries what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What each connection sends over and over; with several `hosts` they take turns."""

    path: str = "/api/orders?id=42"
    headers: Mapping[str, str] = field(default_factory=lambda: ORDINARY_HEADERS)
    body_bytes: int = 0
    hosts: Sequence[str] = ("gateway.test",)

    @property
    def method(self) -> str:
        """POST with a body, else GET."""
        return "POST" if self.body_bytes else "GET"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run of a generator saw. `failed` counts everything but a 2xx or 3xx answer; latencies in ms."""

    requests: int
    seconds: float
    failed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def full_speed(port: int, request: Request, *, connections: int, seconds: float, directory: Path) -> Outcome:
    """Keep `connections` busy for `seconds` with wrk."""
    script = directory / f"wrk-{port}.lua"
    script.write_text(_lua(request))
    whole = max(1, round(seconds))
    printed = _run(
        "wrk",
        *("--threads", "1", "--connections", str(connections), "--duration", f"{whole}s"),
        *("--timeout", "20s", "--script", str(script), f"http://127.0.0.1:{port}{request.path}"),
        seconds=whole,
    )
    line = next((line for line in printed.splitlines() if line.startswith("{")), None)
    if line is None:
        raise LoadError(f"wrk printed no result:\n{printed}")
    return Outcome(**json.loads(line))


def fixed_rate(port: int, request: Request, *, rate: int, connections: int, seconds: float, directory: Path) -> Outcome:
    """Send `rate` requests a second over `connections` for `seconds` with h2load, in HTTP/1.1 as wrk does."""
    log = directory / f"h2load-{port}.log"
    log.unlink(missing_ok=True)
    body = []
    if request.body_bytes:
        path = directory / f"body-{request.body_bytes}"
        path.write_bytes(b"x" * request.body_bytes)
        body = ["-d", str(path)]
    _run(
        "h2load",
        *("--h1", "-n", str(round(rate * seconds)), "-c", str(connections), "--rps", f"{rate / connections:g}"),
        # Connections begin one by one: all at once, each would send its next request in the same instant as the others.
        *("-r", "1", "--rate-period", f"{max(1, 1000 // rate)}ms"),
        *("--log-file", str(log), *body, *_h2load_request(request, port)),
        seconds=seconds,
    )
    return outcome_of_log(log.read_text())


def many_at_once(port: int, *, streams: int, connections: int, directory: Path) -> subprocess.Popen[str]:
    """Start h2load with `streams` HTTP/2 requests in flight at once, each sent once; its log is `in-flight.log`."""
    (directory / "in-flight.log").touch()
    command = [
        *(_program("h2load"), "-n", str(streams), "-c", str(connections), "-m", str(-(-streams // connections))),
        *("--log-file", str(directory / "in-flight.log"), *_h2load_request(Request(), port)),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def steady(port: int, *, connections: int, seconds: float, directory: Path) -> subprocess.Popen[str]:
    """Start h2load at full speed in HTTP/1.1, while something happens; its log is `steady.log`."""
    log = directory / "steady.log"
    command = [
        *(_program("h2load"), "--h1", "-c", str(connections), "-D", str(round(seconds))),
        *("--log-file", str(log), *_h2load_request(Request(), port)),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _h2load_request(request: Request, port: int) -> list[str]:
    headers = [part for name, value in request.headers.items() for part in ("-H", f"{name}: {value}")]
    return [*headers, f"http://127.0.0.1:{port}{request.path}"]


def outcome_of_log(text: str) -> Outcome:
    """Read h2load's log of requests: start in µs, status, µs until the answer's end."""
    rows = [[int(column) for column in line.split("\t")[:3]] for line in text.splitlines()]
    if not rows:
        raise LoadError("h2load sent nothing")
    latencies = sorted(latency / 1000 for _, _, latency in rows)
    lasted = max(start + latency for start, _, latency in rows) - min(start for start, _, _ in rows)
    return Outcome(
        requests=len(rows),
        seconds=lasted / 1e6,
        failed=sum(not 200 <= status < 400 for _, status, _ in rows),
        p50_ms=percentile(latencies, 50),
        p95_ms=percentile(latencies, 95),
        p99_ms=percentile(latencies, 99),
    )


def percentile(ordered: Sequence[float], part: float) -> float:
    """Return the smallest value that `part` percent of `ordered` do not exceed."""
    return ordered[max(0, -(-len(ordered) * int(part) // 100) - 1)]


def version(name: str) -> str:
    """Return what the program says its version is."""
    printed = subprocess.run([_program(name), "--version"], capture_output=True, text=True, check=False)
    return (printed.stdout + printed.stderr).splitlines()[0].split(" Copyright")[0].strip()


def _lua(request: Request) -> str:
    headers = "\n".join(f"wrk.headers[{_quoted(name)}] = {_quoted(value)}" for name, value in request.headers.items())
    hosts = ", ".join(map(_quoted, request.hosts))
    return f"""\
wrk.method = {_quoted(request.method)}
{headers}
local hosts = {{{hosts}}}
if {request.body_bytes} > 0 then wrk.body = string.rep("x", {request.body_bytes}) end
{_LUA_TURNS if len(request.hosts) > 1 else "wrk.headers['Host'] = hosts[1]"}
{_LUA_DONE}"""


# The requests are made beforehand: sending one is then a look into a table.
_LUA_TURNS = """\
local requests = {}
local turn = 0
init = function(args)
  for index, host in ipairs(hosts) do
    wrk.headers["Host"] = host
    requests[index] = wrk.format()
  end
end
request = function()
  turn = turn % #requests + 1
  return requests[turn]
end"""

_LUA_DONE = """\
done = function(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "failed": %d, "p50_ms": %f, "p95_ms": %f, "p99_ms": %f}\\n',
    summary.requests, summary.duration / 1e6, failed,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
"""


def _quoted(text: str) -> str:
    return json.dumps(text)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        package = {"h2load": "nghttp2-client"}.get(name, name)
        raise LoadError(f"{name} is not installed (Debian: apt-get install {package})")
    return path


def _run(name: str, *arguments: str, seconds: float) -> str:
    command = [_program(name), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + _GRACE_S)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{name} still ran {_GRACE_S:g} s after its time") from error
    if done.returncode:
        raise LoadError(f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
