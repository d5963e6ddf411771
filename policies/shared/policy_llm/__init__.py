"""Requests to language models and their answers, in the shapes of all the APIs that policies for models know.

A plain library of the standard library; several policies share it, it is no policy itself. See its README.
"""

from policy_llm.answers import AnswerReader
from policy_llm.reading import Key, Message, Piece, Reading, Reason
from policy_llm.requests import PROMPT_MEMBERS, ROLES, Place, is_prompt, places

__all__ = [
    "AnswerReader",
    "Key",
    "Message",
    "PROMPT_MEMBERS",
    "Piece",
    "Place",
    "ROLES",
    "Reading",
    "Reason",
    "is_prompt",
    "places",
]
