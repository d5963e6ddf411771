"""What a model reads of a request: every place of every API, and nothing that only names things."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_llm import is_prompt, places

TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "BAD1",
        "parameters": {
            "type": "object",
            "properties": {"BAD2": {"type": "string", "description": "BAD3", "enum": ["BAD4"], "default": "BAD5"}},
        },
    },
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"properties": {"a": {"description": "BAD1"}}}}}


@pytest.mark.parametrize(
    "document",
    [
        {"messages": [{"role": role, "content": "BAD1"} for role in ("system", "developer", "assistant", "odd")]},
        {
            "messages": [
                {"role": "BAD1 role", "content": [{"type": "text", "text": "BAD2"}, "BAD3", {"type": "BAD4 x"}]}
            ]
        },
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": "BAD1"}], "tools": [TOOL]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"arguments": '{"a":"BAD1"}'}}]}]},
        {"messages": [], "functions": [TOOL["function"]], "response_format": SCHEMA},
        {"prompt": ["BAD1", "BAD2"], "suffix": "BAD3"},
        {"prompt": {"id": "p", "variables": {"type": "BAD1", "BAD2": {"type": "input_text", "text": "BAD3"}}}},
        {"input": "BAD1", "instructions": "BAD2", "text": {"format": SCHEMA}},
        {
            "input": [
                {"type": "function_call_output", "call_id": "c", "output": "BAD1"},
                {"content": [{"text": "BAD2"}]},
            ]
        },
        {"input": [{"type": "function_call_output", "output": [{"type": "input_text", "text": "BAD1"}]}]},
        {"system": "BAD1", "messages": [{"role": "user", "content": [{"type": "tool_result", "content": "BAD2"}]}]},
        {"system": [{"type": "text", "text": "BAD1"}], "messages": [], "tools": [{"name": "f", "description": "BAD2"}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_use", "input": {"id": "BAD1", "BAD2": "BAD3"}}]}]},
        {
            "messages": [
                {"content": [{"type": "document", "source": {"type": "text", "data": "BAD1"}, "title": "BAD2"}]}
            ]
        },
        {"messages": [{"content": [{"type": "document", "source": {"media_type": "text/plain", "data": "BAD1 x"}}]}]},
        {
            "contents": [{"role": "model", "parts": [{"text": "BAD1"}]}],
            "systemInstruction": {"parts": [{"text": "BAD2"}]},
        },
        {"contents": {"parts": {"text": "BAD1"}}, "system_instruction": {"parts": {"text": "BAD2"}}},
        {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {"status": "BAD1", "BAD2": 1}}}]}]},
        {"contents": [], "tools": [{"functionDeclarations": [{"name": "f", "description": "BAD1"}]}]},
        {"messages": [], "Messages": [{"content": "BAD1"}], "unheard_of": {"x": ["BAD2"], "BAD3 in words": 1}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "BAD1 in words"}}]}]},
        {"messages": [{"role": "user", "content": "x", "id": "BAD1 in words", "signature": "BAD2 in words"}]},
    ],
)
def test_what_the_model_reads_is_found(document: dict[str, Any]) -> None:
    text = " ".join(place.text for place in places(document))
    wanted = [f"BAD{number}" for number in range(1, 9) if f"BAD{number}" in str(document)]
    assert wanted
    assert [one for one in wanted if one not in text] == []


def test_names_and_bytes_are_not() -> None:
    document = {
        "model": "m-1",
        "metadata": {"a": "b"},
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b?c=d"}}]},
            {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function"}]},
            {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "aGk+/w=="}}]},
        ],
        "contents": [{"role": "model", "parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}]}],
        "input": [{"type": "reasoning", "encrypted_content": "aGk="}],
        "tools": [{"type": "function", "parameters": {"type": "object"}}],
        "service_tier": "default",
    }
    assert [place.text for place in places(document)] == []


def test_roles() -> None:
    def roles(document: dict[str, Any]) -> list[str]:
        return [place.role for place in places(document) if not place.is_name]

    assert roles({"system": "a", "instructions": "b", "input": "c"}) == ["system", "system", ""]
    assert roles({"messages": [{"role": "user", "content": [{"role": "system", "text": "a"}]}]}) == ["user"]
    assert roles({"messages": [{"role": "system", "Role": "user", "content": "a"}]}) == ["", ""]
    assert roles({"contents": [{"role": "model", "parts": [{"text": "a"}]}]}) == ["assistant"]
    assert roles({"messages": [{"role": ["system"], "content": "a"}]}) == ["", ""]


@given(
    st.recursive(
        st.none() | st.text(max_size=5) | st.integers() | st.booleans(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["messages", "content", "role", "prompt", "variables", "properties", "data", "type", "é"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_the_document_every_place_is_a_text(document: Any) -> None:
    if isinstance(document, dict):
        is_prompt(document)
        for place in list(places(document)):
            assert isinstance(place.text, str)
            if not place.is_name:
                place.replace("")
