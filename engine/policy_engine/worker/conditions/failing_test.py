"""Look-ups that a request can make fail."""

from __future__ import annotations

import pytest

from policy_engine.worker.conditions.failing import unguarded


@pytest.mark.parametrize(
    ("text", "guards"),
    [
        ('request.headers["x-a"] == "1"', ['"x-a" in request.headers']),
        ("request.headers['x-a'] == '1'", ["'x-a' in request.headers"]),
        ('request.query.skip == "1"', ['"skip" in request.query']),
        ('!(request.query["a"] == "b")', ['"a" in request.query']),
        ('"x-b" in request.headers && request.headers["x-a"] == "1"', ['"x-a" in request.headers']),
        ('"x-a" in response.headers && request.headers["x-a"] == "1"', ['"x-a" in request.headers']),
        ("metadata.jwt.role == 'a'", ["has(metadata.jwt.role)"]),
        ('"jwt" in metadata && metadata["jwt"]["role"] == "a"', ['"role" in metadata["jwt"]']),
        ('request.headers["a"] == "1" || request.headers["a"] == "2"', ['"a" in request.headers']),
        ('request.headers["a"] == request.headers["b"]', ['"a" in request.headers', '"b" in request.headers']),
    ],
)
def test_what_nobody_asked_about_can_fail(text: str, guards: list[str]) -> None:
    assert [one.guard for one in unguarded(text)] == guards


@pytest.mark.parametrize(
    "text",
    [
        '"x-a" in request.headers && request.headers["x-a"] == "1"',
        "has(request.headers.cookie) && request.headers.cookie != ''",
        'request.path.startsWith("/a")',
        '"skip" in request.query',
        'request.headers.exists(name, name.startsWith("x-"))',
        "has(metadata.jwt) && has(metadata.jwt.role) && metadata.jwt.role == 'a'",
        'request.method in ["GET", "HEAD"]',
        "not a condition ((",
    ],
)
def test_what_is_asked_about_cannot(text: str) -> None:
    assert unguarded(text) == []
