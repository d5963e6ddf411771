"""What a request asks for, by its path too, however that is spelled."""

from __future__ import annotations

import pytest

from policy_llm import Unclear, asked, model_in_path, with_model_in_path


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/chat/completions", ""),
        ("/openai/deployments/gpt-4/chat/completions", "gpt-4"),
        ("/openai/%64eployments/gpt-4/chat/completions", "gpt-4"),
        ("/openai/Deployments/%67pt-4/chat/completions", "gpt-4"),
        ("/openai/deployments//gpt-4/chat/completions", "gpt-4"),
        ("/openai/deployments/gpt%204/chat", "gpt 4"),
        ("/openai/deployments/team%2Fgpt/chat", "team/gpt"),
        ("/openai/deployments/gpt%252D4/chat", "gpt%2D4"),
        ("/deployments/llama%3A8b/chat", "llama:8b"),
        ("/deployments/\udcff%ff/chat", "\ufffd\ufffd"),
        ("/v1beta/models/gemini-2:generateContent", "gemini-2"),
        ("/v1beta/%6Dodels/gemini-2%3AgenerateContent", "gemini-2"),
        ("/v1beta/models/gemini-2%3astream%47enerateContent", "gemini-2"),
    ],
)
def test_a_model_in_the_path_is_found_however_it_is_spelled(path: str, model: str) -> None:
    assert model_in_path(path) == model
    renamed = with_model_in_path(path, "a/b")
    assert model_in_path(renamed) == ("a/b" if model else "")
    assert renamed.count("/") == path.count("/")
    assert asked({}, path).model == model
    if model:
        with pytest.raises(Unclear):
            asked({"model": "another"}, path)


@pytest.mark.parametrize("path", ["/models/m:streamGenerateContent", "/models/m%3AstreamGenerate%43ontent"])
def test_a_stream_is_asked_for_however_the_path_is_spelled(path: str) -> None:
    assert asked({}, path).streams
