"""The arguments of the commands that explain: `explain`, `trace` and `diff`; apart from what they do, to start fast."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_EXPLAIN_STATUS = """exit status:
  0   the request passes, or a policy answers it with a status below 400
  1   the request is denied
  2   the request fails: a policy fails and its failure mode is closed
  64  the command line, the settings, the chains or the policies cannot be used

"""

_EXPLAIN_EXAMPLES = """examples:
  what becomes of a request on the route whose key is private:
    policy-engine explain /orders?x=1 --route private -H 'x-api-key: password' \\
      --chains configs/chains.yaml --policies-directory policies
  the route found in Envoy's own configuration, the request from a file:
    policy-engine explain order.http --envoy configs/envoy.yaml --chains configs/chains.yaml \\
      --policies-directory policies
  as if Envoy had a client's certificate, and its filter jwt_authn a token:
    policy-engine explain /orders --route private --attribute connection.mtls=true \\
      --metadata 'envoy.filters.http.jwt_authn={"payload": {"sub": "me"}}' \\
      --chains configs/chains.yaml --policies-directory policies
  with what the real upstream answers, as JSON:
    policy-engine explain /orders --route private --upstream http://127.0.0.1:8080 --json \\
      --chains configs/chains.yaml --policies-directory policies
"""

_TRACE_EXAMPLES = """examples:
  the next 20 requests of a route below /v2, explained:
    policy-engine trace --route orders --where 'request.path.startsWith("/v2")' --limit 20
  what is denied, a line each:
    policy-engine trace --where 'response.status >= 400' --brief
  a minute of traffic for `policy-engine diff`:
    policy-engine trace --seconds 60 --record recorded.jsonl
"""

_DIFF_STATUS = """exit status:
  0  every request is decided as before
  1  at least one is decided otherwise
  2  the command line, the settings, the chains, the policies or the recording cannot be used

"""

_DIFF_EXAMPLES = """examples:
  policy-engine diff old/chains.yaml new/chains.yaml --requests recorded.jsonl
  policy-engine diff old.yaml new.yaml --requests recorded.jsonl -H "x-api-key: $KEY" --messages
"""


_OF_REQUESTS = ("route_key.", "unmapped_routes", "body_limit", "limits.header_count", "limits.header_size")
"""The settings, beside those of chains, that decide what becomes of a request."""


@dataclass(frozen=True, slots=True)
class CommandArguments:
    """What the command line says of one command; `settings` are those that its help lists."""

    text: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    examples: str
    settings: tuple[str, ...]
    exit_status: str = ""
    usage_status: int = 2


def _explain(command: argparse.ArgumentParser) -> None:
    command.add_argument("request", nargs="?", metavar="REQUEST", help="a path, a URL, an .http file, or - for one")
    command.add_argument("--route", metavar="KEY", help="key of the route; not needed where there is one chain")
    command.add_argument("--envoy", type=Path, metavar="FILE", help="Envoy configuration to find the route in")
    command.add_argument("-X", "--request", dest="method", metavar="METHOD", help="method; POST with -d, else GET")
    command.add_argument(
        "-H", "--header", action="append", default=[], metavar="HEADER", help="header as NAME: VALUE; host too"
    )
    command.add_argument(
        "-d", "--data", action="append", default=[], metavar="DATA", help="body, or @FILE; joined with & like curl's"
    )
    command.add_argument("-u", "--user", metavar="NAME:PASSWORD", help="credentials for basic authentication")
    command.add_argument("--client-address", default="192.0.2.1", metavar="IP", help="the client's address")
    command.add_argument(
        "--attribute", action="append", default=[], metavar="NAME=VALUE", help="attribute that Envoy sends"
    )
    command.add_argument(
        "--metadata", action="append", default=[], metavar="NAMESPACE=JSON", help="metadata of filters before"
    )
    answer = command.add_mutually_exclusive_group()
    answer.add_argument("--response", type=Path, metavar="FILE", help="what the upstream answers; unless set, 200")
    answer.add_argument("--upstream", metavar="URL", help="ask this upstream (http://host:port) for real")
    command.add_argument("--json", action="store_true", help="print the record as JSON")


def _trace(command: argparse.ArgumentParser) -> None:
    command.add_argument("--admin", metavar="ADDRESS", help="admin address of the engine; the setting admin.listen")
    command.add_argument("--route", metavar="KEY", help="requests of this route key only; * stands for anything")
    command.add_argument("--where", metavar="CEL", help="requests for which this condition holds; response.* too")
    command.add_argument("--limit", type=int, metavar="N", help="end after so many requests")
    command.add_argument("--seconds", type=float, metavar="N", help="end after so many seconds")
    command.add_argument("--bodies", type=int, metavar="N", help="characters of bodies to show; 0 for none")
    command.add_argument("--record", type=Path, metavar="FILE", help="append the records to a file, for diff")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--brief", action="store_true", help="one line for each request")
    form.add_argument("--json", action="store_true", help="one JSON object for each request, a line each")


def _diff(command: argparse.ArgumentParser) -> None:
    command.add_argument("old", type=Path, metavar="OLD", help="chain file, or a directory of them")
    command.add_argument("new", type=Path, metavar="NEW", help="chain file, or a directory of them")
    command.add_argument(
        "--requests", type=Path, required=True, metavar="FILE", help="what `policy-engine trace --record` wrote"
    )
    command.add_argument(
        "-H", "--header", action="append", default=[], metavar="HEADER", help="header of every request, as credentials"
    )
    command.add_argument("--messages", action="store_true", help="compare what upstream and client get, too")
    command.add_argument("--json", action="store_true", help="as JSON")


EXPLAINING = {
    "explain": CommandArguments(
        "show what each policy of a route does with a request, and why",
        _explain,
        _EXPLAIN_EXAMPLES,
        ("chains", *_OF_REQUESTS),
        _EXPLAIN_STATUS,
        usage_status=64,
    ),
    "trace": CommandArguments(
        "show what a running engine does with real requests, as it does it", _trace, _TRACE_EXAMPLES, ("admin.listen",)
    ),
    "diff": CommandArguments(
        "put recorded requests through two chain files, and show what is decided otherwise",
        _diff,
        _DIFF_EXAMPLES,
        _OF_REQUESTS,
        _DIFF_STATUS,
    ),
}
"""The commands by their names."""
