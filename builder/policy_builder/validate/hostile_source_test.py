"""Source that nobody wrote in good faith: always findings, never an exception, and not for long."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy_builder.discover import python_source
from policy_builder.discover.imported_modules import imported_modules
from policy_builder.discover.platform import Platform
from policy_builder.discover.policy_source import discover_directory
from policy_builder.testworld import CODE, MANIFEST, World
from policy_builder.validate.report import Report
from policy_builder.validate.validation import source_findings

BEFORE = "from policy_engine.sdk import Policy\nclass Example(Policy):\n"
HOOK = "    def on_request_headers(self, request): return None\n"

HOSTILE: dict[str, bytes] = {
    "parentheses": b"x = " + b"(" * 50_000 + b")" * 50_000,
    "lists": b"x = " + b"[" * 150 + b"]" * 150,
    "minus signs": b"x = " + b"-" * 100_000 + b"1",
    "not": b"x = " + b"not " * 50_000 + b"1",
    "lambdas": b"x = " + b"lambda:" * 50_000 + b"1",
    "attributes": b"x = a" + b".a" * 200_000,
    "calls": b"x = a" + b"()" * 200_000,
    "additions": b"x = 1" + b"+1" * 300_000,
    "powers": b"x = 1" + b"**1" * 50_000,
    "conditions": b"x = " + b"1 if 1 else " * 40_000 + b"1",
    "elif": b"if 1: pass\n" + b"elif 1: pass\n" * 40_000,
    "blocks": b"".join(b" " * depth + b"if 1:\n" for depth in range(300)),
    "functions": b"".join(b" " * depth + b"def f():\n" for depth in range(95)) + b" " * 95 + b"pass\n",
    "TYPE_CHECKING": b"if " + b"not " * 5_000 + b"TYPE_CHECKING:\n    import x\n",
    "attribute TYPE_CHECKING": b"if a" + b".a" * 5_000 + b".TYPE_CHECKING:\n    import x\n",
    "NUL": b"x = 1\x00\n",
    "only NUL": b"\x00" * 1000,
    "number": b"x = " + b"9" * 10_000,
    "hexadecimal": b"x = 0x" + b"f" * 500_000,
    "string": b"x = '" + b"a" * 900_000 + b"'",
    "long line": b"x = [" + b"1," * 50_000 + b"]",
    "many imports": b"import nowhere\n" * 10_000,
    "one import": b"import " + b",".join(b"m%d" % one for one in range(5_000)),
    "too large": b"#" * (python_source.MAX_BYTES + 1),
    "not UTF-8": b"x = '\xff\xfe'\n",
    "UTF-16": CODE.encode("utf-16"),
    "UTF-32": CODE.encode("utf-32"),
    "BOM": b"\xef\xbb\xbf" + CODE.encode(),
    "two BOMs": b"\xef\xbb\xbf\xef\xbb\xbf" + CODE.encode(),
    "BOM with another encoding": b"\xef\xbb\xbf# coding: latin-1\n" + CODE.encode(),
    "utf-7": b"# coding: utf-7\nx = 1\n",
    "latin-1": b"# coding: latin-1\nx = '\xe4'\n",
    "rot13": b"# coding: rot13\nvzcbeg bf\n",
    "unicode_escape": b"# coding: unicode_escape\nx = '\\ud800'\n\\u0069mport os\n",
    "unknown encoding": b"# coding: " + b"x" * 10_000 + b"\n",
    "surrogate": b"x = '\\ud800'\nclass \xed\xa0\x80: pass\n",
    "surrogate in a string": b"x = '\\ud800'\n" + CODE.encode(),
    "carriage returns": CODE.replace("\n", "\r").encode(),
    "form feeds": b"\x0c" * 1000 + CODE.encode(),
    "odd escapes": rb"x = '\d\w'" + b"\n" + CODE.encode(),
    "unclosed": b"x = '''" + b"a\n" * 1000,
    "empty": b"",
    "identifier": BEFORE.encode() + b"    def on_" + b"x" * 500_000 + b"(self): pass\n",
    "methods": BEFORE.encode() + b"".join(b"    def m%d(s):0\n" % one for one in range(8_000)) + HOOK.encode(),
    "deep base": b"class Example(a" + b".a" * 5_000 + b"):\n" + HOOK.encode(),
    "deep decorator": BEFORE.encode() + b"    @" + b"a" + b".a" * 5_000 + b"\n" + HOOK.encode(),
    "many bases": b"class Example(" + b",".join(b"B%d" % one for one in range(5_000)) + b"):\n" + HOOK.encode(),
    "chain of classes": b"class C0: pass\n"
    + b"".join(b"class C%d(C%d): pass\n" % (one, one - 1) for one in range(1, 3_000))
    + b"class Example(C2999):\n"
    + HOOK.encode(),
    "chain of names": b"".join(b"N%d = N%d\n" % (one, one + 1) for one in range(3_000)) + b"Example = N0\n",
    "circle of names": b"A = B\nB = A\nExample = A\n",
    "imports itself": b"from .policy import Example\n",
    "imports from far above": b"from " + b"." * 5_000 + b" import Example\n",
}  # fmt: skip


def policy(directory: Path, code: bytes, **files: bytes) -> Path:
    directory.mkdir(exist_ok=True)
    content = {"policy.yaml": MANIFEST.format(name="one", version="v1.0.0").encode(), "policy.py": code, **files}
    for name, data in content.items():
        (directory / name).write_bytes(data)
    return directory


def report_of(directory: Path) -> str:
    """Return what policy-validator and schema-checker would say; a traceback fails the test."""
    report = Report()
    source = discover_directory(None, directory, Platform().marker_environment())
    report.add("policy", [*source.diagnostics, *source_findings(source)])
    for path in source.files.values():
        imported_modules(path)
    report.render_json().encode()
    report.render_text().encode()
    return "\n".join(str(one) for one in report.findings.get("policy", ()) if "README" not in str(one))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_source_gives_findings(tmp_path: Path, name: str) -> None:
    found = report_of(policy(tmp_path / "p", HOSTILE[name]))
    fine = {
        "BOM",
        "surrogate in a string",
        "carriage returns",
        "form feeds",
        "odd escapes",
        "methods",
        "deep decorator",
    }
    assert ("policy.py" in found or "policy.yaml" in found) == (name not in fine), found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("utf-7", "policy.py:1:1: is encoded as utf-7; Python files of policies are UTF-8"),
        ("UTF-16", "policy.py:1:1: is not valid Python"),
        ("too large", "policy.py: is larger than 1 MiB"),
        ("NUL", "policy.py"),
        ("chain of classes", "base class C"),
    ],
)
def test_what_is_said_of_it(tmp_path: Path, name: str, expected: str) -> None:
    assert expected in report_of(policy(tmp_path / "p", HOSTILE[name]))


def test_hostile_source_in_a_build_is_in_the_report_with_all_else(world: World) -> None:
    for number, name in enumerate(("parentheses", "NUL", "attributes", "utf-7")):
        (world.policy(f"p{number}") / "policy.py").write_bytes(HOSTILE[name])
    world.policy("fine", code="import nowhere\n" + CODE)
    report = world.report()
    for number in range(4):
        assert f"policies/p{number}/v1_0_0/policy.py" in report
    assert "imports nowhere" in report


def test_a_deep_expression_in_a_requirement_hides_a_base_class_and_no_more(world: World) -> None:
    world.locked("lib", "1.0", files={"lib/__init__.py": HOSTILE["attributes"]})
    world.policy(
        "one", code="from lib import Base\n" + CODE.replace("(Policy)", "(Base, Policy)"), requirements="lib==1.0\n"
    )
    plan, report = world.validate()
    assert plan is not None, report.render_text()
    assert "warning: /entrypoint: base class Base is not in the policy or its requirements" in report.render_text()


LINE = st.sampled_from(
    [
        "from policy_engine.sdk import Policy", "import os", "from . import policy", "class Example(Policy):", "class Example(Example):",
        "    def on_request_headers(self, request):", "    on_request_headers = 3", "    async def close(self): yield", "        pass",
        "    @property", "try:", "except ImportError:", "if TYPE_CHECKING:", "Example = Policy", "\x00", "\\", "'''", "(", "# coding: utf-7",
        "\ud800", "\ufeff", "match x:", "    def on_x(*, a): return f'{a!r:{b}}'", "type X[T] = T", "class Example[T](Policy, metaclass=M):",
    ]
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.lists(LINE, max_size=12).map(lambda lines: "\n".join(lines).encode(errors="surrogatepass")),
        st.binary(max_size=200),
    )
)
def test_any_source_gives_findings(tmp_path: Path, code: bytes) -> None:
    report_of(policy(tmp_path / "p", code))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=200), st.text(alphabet="[]{}:-&*!|> \n\x00\ufeffab'\"", max_size=80).map(str.encode))
)
def test_any_manifest_gives_findings(tmp_path: Path, text: bytes) -> None:
    report_of(policy(tmp_path / "p", CODE.encode(), **{"policy.yaml": text}))
