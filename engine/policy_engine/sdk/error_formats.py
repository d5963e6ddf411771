"""The formats in which a denial may be written; for the engine, its settings and chain files."""

from __future__ import annotations

from enum import StrEnum


class ErrorFormat(StrEnum):
    """The shape of the body of a denial that has none of its own. gRPC clients get a gRPC status whatever it is."""

    PROBLEM = "problem"
    """Problem details in JSON (RFC 9457), or one line of text for a client whose `Accept` prefers it."""
    TEXT = "text"
    """One line of text."""
    JSON_RPC = "json-rpc"
    """An error response of JSON-RPC 2.0, as clients of the Model Context Protocol read it."""
    OPENAI = "openai"
    """The error object of OpenAI's API, which clients of language models read."""
    ANTHROPIC = "anthropic"
    """The error object of Anthropic's API."""
