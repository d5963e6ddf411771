"""The `errors` of chain files: what is read, what is refused and where, and the way it takes to a worker process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policy_engine.documents.yaml_document import Document
from policy_engine.processes.channel import spec_from_message, spec_to_message
from policy_engine.sdk.error_formats import ErrorFormat
from policy_engine.sources.chain_reader import ChainReader, LoadedChains
from policy_engine.sources.xds import chain as xds_chain
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.chains.error_answers import MAX_TEMPLATE, ErrorAnswers, ErrorTemplate
from policy_engine.worker.policies.registry import Registry


def load(errors: Any, general: Any = None) -> LoadedChains:
    """A file with one route, which has these `errors`; `general` are those of the file."""
    route = {"route_key": "r", "policies": []} | ({} if errors is None else {"errors": errors})
    document = {"version": "v1", "routes": [route]} | ({} if general is None else {"errors": general})
    return ChainReader(Registry()).read_documents([Document("chains.yaml", document)])


def answers(errors: Any, general: Any = None) -> ErrorAnswers | None:
    loaded = load(errors, general)
    assert loaded.chains is not None, loaded.diagnostics
    return loaded.chains.routes[0].errors


def test_nothing_said_is_left_to_the_settings() -> None:
    assert answers(None) is None
    assert answers({}) == ErrorAnswers()


def test_a_routes_answers_go_before_those_of_its_file() -> None:
    general = {"format": "openai", "templates": [{"status": "401", "body": "file"}]}
    own = answers(
        {"templates": [{"body": "any"}, {"status": "4xx", "body": "class"}, {"status": 404, "body": "one"}]}, general
    )
    assert own is not None
    assert own.format is ErrorFormat.OPENAI
    assert [one.body for one in own.templates] == ["one", "class", "any", "file"]
    assert answers({"format": "text"}, general) == ErrorAnswers(
        ErrorFormat.TEXT, (ErrorTemplate("file", status="401"),)
    )
    assert answers(None, general) == answers({}, general)


WRONG = {
    "format": ({"format": "xml"}, "/errors/format", "problem, text"),
    "unknown key": ({"formats": "text"}, "/errors/formats", "did you mean"),
    "no object": ("text", "/errors", "an errors section"),
    "no list": ({"templates": {"401": "x"}}, "/errors/templates", "must be a list"),
    "no body": ({"templates": [{"status": 401}]}, "/errors/templates/0", "'body'"),
    "status": ({"templates": [{"status": 200, "body": "x"}]}, "/errors/templates/0/status", "400 to 599"),
    "status class": ({"templates": [{"status": "2xx", "body": "x"}]}, "/errors/templates/0/status", "400 to 599"),
    "status type": ({"templates": [{"status": [401], "body": "x"}]}, "/errors/templates/0/status", "400 to 599"),
    "null status": ({"templates": [{"status": None, "body": "x"}]}, "/errors/templates/0/status", "400 to 599"),
    "variable": ({"templates": [{"body": "{{reason}}"}]}, "/errors/templates/0/body", "status, title"),
    "open place": ({"templates": [{"body": "{{title"}]}, "/errors/templates/0/body", "{{ title }}"),
    "nested place": ({"templates": [{"body": "{{ {{title}} }}"}]}, "/errors/templates/0/body", "{{ title }}"),
    "long": ({"templates": [{"body": "x" * (MAX_TEMPLATE + 1)}]}, "/errors/templates/0/body", "too long"),
    "surrogate": ({"templates": [{"body": "\ud800"}]}, "/errors/templates/0/body", "surrogate"),
    "no json": (
        {"templates": [{"content_type": "application/json", "body": '{"a": {{title}}}'}]},
        "/errors/templates/0/body",
        "not JSON",
    ),
    "content type": (
        {"templates": [{"content_type": "json", "body": "x"}]},
        "/errors/templates/0/content_type",
        "media type",
    ),
    "line break": (
        {"templates": [{"content_type": "text/plain\r\nx-a: 1", "body": "x"}]},
        "/errors/templates/0/content_type",
        "media type",
    ),
    "many": ({"templates": [{"body": "x"}] * 51}, "/errors/templates", "at most 50"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("place", ["route", "file"])
def test_what_is_wrong_is_told_with_its_place(name: str, place: str) -> None:
    errors, pointer, told = WRONG[name]
    loaded = load(errors) if place == "route" else load(None, errors)
    assert loaded.chains is None
    (found,) = loaded.diagnostics
    assert found.path == (f"/routes/0{pointer}" if place == "route" else pointer)
    assert told in f"{found.message} {found.allowed}"


def test_a_template_costs_its_length() -> None:
    assert answers({"templates": [{"body": "{{" + " " * (MAX_TEMPLATE - 20) + "title}}"}]}) is not None


GIVEN = {
    "format": "json-rpc",
    "templates": [{"status": "503", "content_type": "application/json", "body": '{"later": "{{request_id}}"}'}],
}


def test_they_reach_the_worker_process_and_its_chain() -> None:
    loaded = load(GIVEN)
    assert loaded.chains is not None
    sent = spec_from_message(json.loads(json.dumps(spec_to_message(loaded.chains))))
    assert sent == loaded.chains
    assert Compiler(Registry()).compile(sent).chains["r"].errors == answers(GIVEN)
    assert loaded.chains.routes[0].as_document()["errors"] == GIVEN


def test_a_changed_template_is_another_chain() -> None:
    hashes = set()
    for errors in (None, {}, GIVEN, {"format": "text"}, {"templates": [{"body": "a"}]}, {"templates": [{"body": "b"}]}):
        loaded = load(errors)
        assert loaded.chains is not None
        hashes.add(loaded.chains.routes[0].content_hash())
    assert len(hashes) == 6


@pytest.mark.parametrize("errors", [{}, GIVEN, {"format": "text"}, {"templates": [{"body": "x"}]}])
def test_they_go_over_the_wire_of_xds(errors: Any) -> None:
    document = {"route_key": "r", "policies": [], "errors": errors}
    assert xds_chain.decode(xds_chain.encode(document)) == document
