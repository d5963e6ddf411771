"""`policy-engine new-policy`: a directory with a policy that builds, validates and passes its own tests (R-46).

A separate module because it is for authors and takes no part in running an engine. Standard library and SDK only.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from policy_engine.worker.policies.manifest import LONGEST_NAME, is_policy_name
from policy_engine.worker.policies.registry import Version

_NAMES_VERSION = (".yaml", ".md", ".bazel", ".py")
_ENGINE_MODULE = re.compile(r'^module\([^)]*name\s*=\s*"policy_engine"', re.MULTILINE)

_MANIFEST = """\
name: {name}
version: {version}
description: Sets a header of the request.
entrypoint: policy:{class_name}
phases:
  - request_headers
parameters:
  $schema: https://json-schema.org/draft/2020-12/schema
  type: object
  additionalProperties: false
  required: [value]
  properties:
    header:
      description: The header to set.
      type: string
      minLength: 1
      default: x-{name}
    value:
      description: Its value.
      type: string
      maxLength: 1024
examples:
  - description: Tell the upstream which gateway a request came through
    parameters:
      value: edge-1
"""

_POLICY = '''\
"""Sets a header of the request; the change is built once, when the chain is loaded."""

from __future__ import annotations

from policy_engine.sdk import ParameterError, Parameters, Policy, Request, RequestMutation, header_name, header_value


class {class_name}(Policy):
    """Gives every request the same change."""

    def __init__(self, parameters: Parameters) -> None:
        try:
            changes = {{header_name(parameters["header"]): header_value(parameters["value"])}}
        except ValueError as error:
            raise ParameterError(str(error)) from None
        self._change = RequestMutation(set_headers=changes)

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Set the header."""
        return self._change
'''

_TEST = '''\
"""{name} through the test kit: what the upstream gets, and what is refused."""

from __future__ import annotations

import pytest
from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import load_policy, request, run


def test_the_upstream_gets_the_header() -> None:
    policy = load_policy(__file__, {{"header": "x-{name}", "value": "edge-1"}})
    outcome = run(policy, request("GET", "/", headers={{"x-{name}": "forged"}}))
    assert outcome.request.headers.get_all("x-{name}") == ("edge-1",)


def test_a_value_that_would_end_the_header_is_refused() -> None:
    with pytest.raises(ParameterError):
        load_policy(__file__, {{"header": "x-{name}", "value": "1\\r\\nx-admin: true"}})
'''

_README = """\
# {name} {version}

Sets a header of the request.

| parameter | meaning | default |
|---|---|---|
| `header` | the header to set | `x-{name}` |
| `value` | its value | required |

```yaml
- name: {name}
  version: {version}
  parameters:
    value: edge-1
```
"""

_EXCHANGE_MANIFEST = """\
name: {name}
version: {version}
description: Gives a response a header of its request back.
entrypoint: policy:{class_name}
phases:
  - request_headers
  - response_headers
parameters:
  $schema: https://json-schema.org/draft/2020-12/schema
  type: object
  additionalProperties: false
  properties:
    header:
      description: The header of both.
      type: string
      minLength: 1
      default: x-{name}
examples:
  - description: Let a client find its answers again
    parameters:
      header: x-correlation-id
"""

_EXCHANGE_POLICY = '''\
"""Gives a response a header of its request back; what it keeps in between is this request's and this entry's alone."""

from __future__ import annotations

from dataclasses import dataclass

from policy_engine.sdk import (
    Counter,
    ParameterError,
    Parameters,
    Policy,
    Request,
    Response,
    ResponseMutation,
    header_name,
)


@dataclass(slots=True)
class Kept:
    """What is kept of one request until its response comes."""

    value: str | None = None


class {class_name}(Policy):
    """Remembers the header as the client sent it, whatever later policies make of the request."""

    returned = Counter("Responses that got the header.")

    def __init__(self, parameters: Parameters) -> None:
        try:
            self._header = header_name(parameters["header"])
        except ValueError as error:
            raise ParameterError(str(error), "/header") from None

    def on_request_headers(self, request: Request) -> None:
        """Keep the header."""
        self.state(request, Kept).value = request.headers.get(self._header)

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation | None:
        """Give it back."""
        value = self.state(request, Kept).value
        if value is None:
            return None
        self.returned.inc()
        return ResponseMutation(set_headers={{self._header: value}})
'''

_EXCHANGE_TEST = '''\
"""{name} through the test kit: what the client gets back, what is counted, and what is refused."""

from __future__ import annotations

import pytest
from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import load_policy, request, run


def test_the_client_gets_its_header_back() -> None:
    outcome = run(load_policy(__file__, {{"header": "x-a"}}), request("GET", "/", headers={{"x-a": "7"}}))
    assert outcome.response.headers["x-a"] == "7"
    assert outcome.metric("returned") == 1


def test_two_entries_do_not_mix() -> None:
    chain = [load_policy(__file__, {{"header": "x-a"}}), load_policy(__file__, {{"header": "x-b"}})]
    outcome = run(chain, request("GET", "/", headers={{"x-a": "7", "x-b": "8"}}))
    assert (outcome.response.headers["x-a"], outcome.response.headers["x-b"]) == ("7", "8")


def test_what_was_not_sent_is_not_given_back() -> None:
    assert "x-{name}" not in run(load_policy(__file__), request("GET", "/")).response.headers


def test_a_name_that_is_no_header_is_refused() -> None:
    with pytest.raises(ParameterError):
        load_policy(__file__, {{"header": "x a"}})
'''

_EXCHANGE_README = """\
# {name} {version}

Gives a response a header of its request back.

| parameter | meaning | default |
|---|---|---|
| `header` | the header of both | `x-{name}` |

Counts the responses that got it: `policy_{metric}_returned_total`.

```yaml
- name: {name}
  version: {version}
  parameters:
    header: x-correlation-id
```
"""

_REQUIREMENTS = """\
# Every package the policy imports, pinned: name==version. Nothing yet.
"""

_BUILD = """\
load("{repository}//builder:defs.bzl", "policy")

policy(
    name = "{name}",
    version = "{version}",
)
"""


TEMPLATES: Mapping[str, Mapping[str, str]] = {
    "header": {"policy.yaml": _MANIFEST, "policy.py": _POLICY, "policy_test.py": _TEST, "README.md": _README},
    "exchange": {
        "policy.yaml": _EXCHANGE_MANIFEST,
        "policy.py": _EXCHANGE_POLICY,
        "policy_test.py": _EXCHANGE_TEST,
        "README.md": _EXCHANGE_README,
    },
}
"""What to start from: a policy of one phase, or one that keeps something from the request to the response."""


class ScaffoldError(ValueError):
    """A policy of this name or version cannot be made there; the message says why."""


def scaffold(name: str, directory: Path, version: str = "v1.0.0", template: str = "header") -> tuple[Path, ...]:
    """Write a new policy to `directory/NAME/v1_0_0` and return its files; `template` is one of `TEMPLATES`.

    Where there is an older version of it, the newest of those is copied, with the new version written where it was.
    Raises ScaffoldError for a name that is not in kebab-case, a version that is not of the form v1.2.3 and a directory
    that exists, and OSError.
    """
    if not is_policy_name(name):
        raise ScaffoldError(f"{name!r} is not in kebab-case, such as add-tenant (at most {LONGEST_NAME} characters)")
    try:
        wanted = Version.parse(version)
    except ValueError as error:
        raise ScaffoldError(str(error)) from None
    target = directory / name / _directory_name(wanted)
    there = _versions(directory / name)
    if target.exists() or (there and wanted < there[0]):
        newest = there[-1] if there else wanted
        following = Version(newest.major, newest.minor + 1, 0)
        why = f"{target} exists" if target.exists() else f"the oldest version of {name} there is {there[0]}"
        raise ScaffoldError(f"{why}; a new version gets a directory of its own, such as --version {following}")
    older = [one for one in there if one < wanted]
    if older:
        return _copy(directory / name / _directory_name(older[-1]), target, older[-1], wanted)
    values = {
        "name": name,
        "version": version,
        "metric": name.replace("-", "_"),
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "repository": "" if _is_in_engine_repository(target) else "@policy_engine",
    }
    files = {**TEMPLATES[template], "requirements.txt": _REQUIREMENTS, "BUILD.bazel": _BUILD}
    target.mkdir(parents=True)
    for file, text in files.items():
        (target / file).write_text(text.format(**values), encoding="utf-8")
    return tuple(target / file for file in files)


def _directory_name(version: Version) -> str:
    return str(version).replace(".", "_")


def _versions(directory: Path) -> list[Version]:
    """Return the versions of the policy in `directory`, oldest first."""
    found = []
    for one in directory.iterdir() if directory.is_dir() else ():
        with suppress(ValueError):
            version = Version.parse(one.name.replace("_", "."))
            if one.name == _directory_name(version) and one.is_dir():
                found.append(version)
    return sorted(found)


def _copy(source: Path, target: Path, old: Version, new: Version) -> tuple[Path, ...]:
    """Copy a version of a policy without what tools left in it, and write `new` where it says that it is `old`."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis", "*.pyc"))
    number, directory = re.escape(str(old)), re.escape(_directory_name(old))
    # Where a version is named as this policy's own; a history of versions stays what it is.
    own = re.compile(
        rf"""((?:\bversion\s*[:=]\s*["']?)|(?:^\#\ .*\ ))({number})(?![0-9.])""", re.MULTILINE | re.VERBOSE
    )
    files = sorted(one for one in target.rglob("*") if one.is_file())
    for file in files:
        if file.suffix in _NAMES_VERSION:
            text = file.read_text(encoding="utf-8")
            text = own.sub(rf"\g<1>{new}", text)
            text = re.sub(rf"\b{directory}\b", _directory_name(new), text)
            file.write_text(text, encoding="utf-8")
    return tuple(files)


def _is_in_engine_repository(path: Path) -> bool:
    """Return whether the nearest Bazel module above `path` is the engine's own, whose labels need no repository."""
    for parent in path.absolute().parents:
        module = parent / "MODULE.bazel"
        if module.is_file():
            return _ENGINE_MODULE.search(module.read_text(encoding="utf-8")) is not None
    return False
