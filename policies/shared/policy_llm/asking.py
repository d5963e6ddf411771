"""What a request asks a model for: which model, a stream or not, how long an answer; whatever API it is made to.

A separate module because names and paths of the APIs are known here and nowhere else. What cannot be told for sure is
refused: a client that writes a model two ways must not be counted for one and served by the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

_IN_PATH = re.compile(r"/(?:models|deployments)/+([^/]+?)(?::(\w+))?(?:/|\Z)", re.IGNORECASE)
"""Gemini's `/models/NAME:generateContent`, Azure's `/deployments/NAME/chat/completions`."""
_SLASH, _COLON = "\ufffe", "\uffff"
"""What stands for those that were encoded: they are part of a name."""
_METHOD = re.compile(rf"{_COLON}((?:stream)?generatecontent)\Z", re.IGNORECASE)
_STREAMS = ":streamgeneratecontent"

_LONGEST_MODEL = 256
_CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_CHOICES = ("n", "best_of")
_CONFIGS = ("generationConfig", "generation_config")
_GEMINI_CAPS = ("maxOutputTokens", "max_output_tokens")
_GEMINI_CHOICES = ("candidateCount", "candidate_count")


class Unclear(ValueError):
    """The request can be read in two ways; the text may be shown to the client."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for. `most` are the tokens that all choices of the answer may have, None when nothing is said;
    `operation` is in the words of OpenTelemetry's `gen_ai.operation.name`, empty where it cannot be told."""

    model: str = ""
    streams: bool = False
    most: int | None = None
    operation: str = ""


def asked(document: Mapping[str, Any], path: str) -> Asked:
    """Return what a request with this body and path (without its query) asks for; raises Unclear.

    A model in the path is the one that serves; one of another name in the body is refused.
    """
    named = model_in_path(path)
    model = document.get("model")
    if model is not None and (not isinstance(model, str) or not model):
        raise Unclear("model is not a text")
    if len(model or named) > _LONGEST_MODEL:
        raise Unclear("the name of the model is too long")
    if named and model is not None and model.rpartition("/")[2] != named:
        raise Unclear("the path and the body name two models")
    streams = document.get("stream")
    if streams is not None and not isinstance(streams, bool):
        raise Unclear("stream is neither true nor false")
    return Asked(
        model=model or named,
        streams=bool(streams) or _decoded(path).lower().endswith(_STREAMS),
        most=_most(document),
        operation=_operation(document, path),
    )


def asks_for_usage(document: dict[str, Any]) -> bool:
    """Ask for usage in the streams of chat completions and completions; tell whether that changed the request.

    The other APIs send it unasked and refuse the member.
    """
    if document.get("stream") is not True or "input" in document:
        return False
    options = document.get("stream_options")
    wanted = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    if wanted == options:
        return False
    document["stream_options"] = wanted
    return True


def model_in_path(path: str) -> str:
    """Return the model that a path names, in whatever way it is spelled; empty when it names none."""
    found = _IN_PATH.search(_decoded(path))
    return found[1].replace(_SLASH, "/").replace(_COLON, ":") if found else ""


def with_model_in_path(path: str, model: str) -> str:
    """Return the path with this model in place of the one that `model_in_path` finds; as it is when there is none."""
    decoded = _decoded(path)
    found = _IN_PATH.search(decoded)
    if found is None:
        return path
    segments = path.split("/")
    method = f":{found[2]}" if found[2] else ""
    segments[decoded.count("/", 0, found.start(1))] = quote(model, safe="") + method
    return "/".join(segments)


def _decoded(path: str) -> str:
    """Return the path with each segment decoded, as an upstream reads it; always Unicode, whatever bytes it has."""
    plain = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    segments = (
        unquote(one.replace("%3A", _COLON).replace("%3a", _COLON)).replace("/", _SLASH) for one in plain.split("/")
    )
    return _METHOD.sub(r":\1", "/".join(segments))


def _operation(document: Mapping[str, Any], path: str) -> str:
    if path.endswith(("/embeddings", ":embedContent", ":batchEmbedContents")):
        return "embeddings"
    if "contents" in document:
        return "generate_content"
    if "messages" in document or "input" in document:
        return "chat"
    return "text_completion" if "prompt" in document else ""


def _most(document: Mapping[str, Any]) -> int | None:
    """Return the largest of the caps, as it is not known which one an upstream goes by, times the choices."""
    holders: list[tuple[Mapping[str, Any], Sequence[str], Sequence[str]]] = [(document, _CAPS, _CHOICES)]
    for name in _CONFIGS:
        config = document.get(name)
        if isinstance(config, dict):
            holders.append((config, _GEMINI_CAPS, _GEMINI_CHOICES))
    caps = [cap for holder, names, _ in holders for name in names if (cap := _whole(holder.get(name))) is not None]
    choices = [one for holder, _, names in holders for name in names if (one := _whole(holder.get(name)))]
    return max(caps) * max(choices, default=1) if caps else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else None
