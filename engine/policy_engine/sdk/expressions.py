"""CEL expressions in a policy's parameters: what a policy sees of them.

A separate module because the SDK depends on nothing: whoever loads policies says here who compiles.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from policy_engine.sdk.exchange import Request, Response

_Result_co = TypeVar("_Result_co", covariant=True)


class ExpressionRefused(ValueError):
    """The text is no usable expression; the message says why, and where in it."""


class ExpressionFailed(Exception):
    """An expression could not be evaluated for this request. `reason` and `expression` hold nothing of the request."""

    def __init__(self, reason: str, expression: str, what: str = "expression") -> None:
        shown = expression if len(expression) <= _SHOWN_LENGTH else expression[:_SHOWN_LENGTH] + "…"
        super().__init__(f"{what} failed: {reason}; {what}: {shown}")
        self.reason = reason
        self.expression = expression


class Expression(Protocol[_Result_co]):
    """A compiled expression; immutable, one serves all requests."""

    @property
    def text(self) -> str:
        """The expression as it was written."""

    def evaluate(self, request: Request, response: Response | None = None) -> _Result_co:
        """Return what it gives for this request; raises ExpressionFailed, for an entry of a map that is missing too."""


class ExpressionCompiler(Protocol):
    """Compiles for policies; raises ExpressionRefused."""

    def __call__(self, text: str, *, boolean: bool, with_response: bool) -> Expression[Any]:
        """Return the expression; `boolean` refuses what is not true or false, `with_response` allows `response.*`."""


_SHOWN_LENGTH = 200
_compilers: list[ExpressionCompiler] = []


def compile_with(compiler: ExpressionCompiler) -> None:
    """Let policies of this process compile their expressions with `compiler`."""
    _compilers[:] = [compiler]


def compiled(text: str, *, boolean: bool, with_response: bool) -> Expression[Any]:
    """Return the expression; raises ExpressionRefused, and RuntimeError where there is no engine."""
    if not _compilers:
        raise RuntimeError("expressions are compiled by the engine; make the policy with policy_engine.sdk.testing")
    return _compilers[0](text, boolean=boolean, with_response=with_response)
