"""A policy for the engine's own tests: rewrites a streamed body chunk by chunk, ends it, or denies it midway."""

from __future__ import annotations

from policy_engine.sdk import Chunk, ChunkMutation, ImmediateResponse, Parameters, Policy, Request, Response


class Streaming(Policy):
    """Works on one side only; the other is idle."""

    def __init__(self, parameters: Parameters) -> None:
        self._end_at: bytes = parameters.get("end_at", "").encode()
        self._deny: bytes = parameters.get("deny", "").encode()
        self._hold: bool = parameters["hold"]
        self.idle_phases = ("request_body" if parameters["side"] == "response" else "response_body",)

    def on_request_chunk(self, request: Request, chunk: Chunk) -> ChunkMutation | ImmediateResponse:
        if self._deny and self._deny in chunk.data:
            return ImmediateResponse(403, "denied midway")
        return self._rewrite(request, chunk)

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> ChunkMutation:
        return self._rewrite(request, chunk)

    def _rewrite(self, request: Request, chunk: Chunk) -> ChunkMutation:
        if self._hold:
            held, request.metadata["held"] = request.metadata.get("held", b""), chunk.data
            chunk = Chunk(held + chunk.data if chunk.end else held, chunk.end)
        if self._end_at and self._end_at in chunk.data:
            return ChunkMutation(chunk.data.partition(self._end_at)[0].upper(), end=True)
        return ChunkMutation(chunk.data.upper())
