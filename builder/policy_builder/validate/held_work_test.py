"""Growing work in body hooks is named wherever the hook gets to it, and what is offloaded is not."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest

from policy_builder.discover.platform import Platform
from policy_builder.discover.policy_source import discover_directory
from policy_builder.validate.held_work import held_work
from policy_builder.validate.interface import check_interface
from policy_engine.documents.diagnostics import Rule, Severity

HEAD = """
import json
import json as j
import re
import unicodedata
import urllib.parse
from json import loads as read
from re import compile, search

WORD = re.compile("a+b")
OTHER: re.Pattern[str] = compile("x")

def parse(body):
    return json.loads(body)

def again(body):
    return parse(body)

class P:
    def __init__(self, parameters):
        self._word = re.compile(parameters["word"])
        self._map = {}

    def _check(self, body):
        return json.loads(body)
"""


def found(code: str) -> list[str]:
    text = HEAD + textwrap.indent(textwrap.dedent(code), "    ")
    tree = ast.parse(text)
    (policy,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    members = {
        node.name: ("p.py", node) for node in policy.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    findings = list(held_work("P", members, {"p.py": tree}))
    lines = text.splitlines()
    assert all(one.severity is Severity.WARNING and one.rule is Rule.HELD_TIME for one in findings)
    assert all("(" in lines[(one.line or 1) - 1][(one.column or 1) - 1 :] for one in findings)
    return [one.reason.split(" calls ")[1].split(",")[0] for one in findings]


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("def on_request_body(self, request): json.loads(request.body)", ["json.loads"]),
        ("def on_request_body(self, request): j.loads(request.body)", ["json.loads"]),
        ("async def on_response_body(self, request, response): read(response.body)", ["json.loads"]),
        ("def on_request_chunk(self, request, chunk): re.sub('a', '', chunk.data)", ["re.sub"]),
        ("def on_request_body(self, request): search('a', request.body)", ["re.search"]),
        ("def on_request_body(self, request): return WORD.search(request.body)", ["WORD.search"]),
        ("def on_request_body(self, request): return OTHER.sub('', 'a')", ["OTHER.sub"]),
        ("def on_request_body(self, request): return self._word.findall(request.body)", ["self._word.findall"]),
        ("def on_request_body(self, request): unicodedata.normalize('NFKC', 'a')", ["unicodedata.normalize"]),
        ("def on_request_body(self, request): urllib.parse.parse_qs('a')", ["urllib.parse.parse_qs"]),
        ("def on_request_body(self, request): return self._check(request.body)", ["json.loads"]),
        ("def on_request_body(self, request): return again(request.body)", ["json.loads"]),
        (
            "def on_request_body(self, request):\n    import zlib\n    if request.body:\n        zlib.decompress(request.body)",
            ["zlib.decompress"],
        ),
        (
            "def on_request_body(self, request): return [json.loads(one) for one in request.body.split()]",
            ["json.loads"],
        ),
    ],
)
def test_growing_work_on_the_event_loop_is_named(code: str, named: list[str]) -> None:
    assert found(code) == named


@pytest.mark.parametrize(
    "code",
    [
        "def on_request_body(self, request): return self.offload_large(self._check, request.body)",
        "async def on_request_body(self, request): return await self.offload(parse, request.body)",
        "def on_request_body(self, request): return self.offload(lambda body: json.loads(body), request.body)",
        "def on_request_headers(self, request): return json.loads(request.headers['x-a'])",
        "def on_request_body(self, request): return self._map.get('search')",
        "def on_request_body(self, request): return request.path.split('/')",
        "def on_request_body(self, request): return self.on_request_body(request)",
    ],
)
def test_what_is_offloaded_or_no_body_is_not(code: str) -> None:
    assert found(code) == []


def test_a_policy_whose_hooks_run_in_threads_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(
        "name: p\nversion: v1.0.0\ndescription: x\nentrypoint: policy:P\nphases: [request_body]\n"
    )
    for blocking, warnings in (("False", 1), ("True", 0)):
        (tmp_path / "policy.py").write_text(
            "import json\nfrom policy_engine.sdk import Policy\n\n\nclass P(Policy):\n"
            f"    blocking = {blocking}\n\n    def on_request_body(self, request):\n        json.loads(request.body)\n"
        )
        policy = discover_directory(None, tmp_path, Platform().marker_environment())
        assert policy.manifest is not None
        findings = check_interface(policy.manifest, policy.where, policy.files)
        assert len(findings) == warnings
        assert all("policy.py:9:9" in str(one) for one in findings)
