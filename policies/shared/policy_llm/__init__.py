"""Requests to language models and their answers, in the shapes of all the APIs that policies for models know.

A plain library; several policies share it, it is no policy itself. See its README.
"""

from policy_llm.answers import AnswerReader
from policy_llm.asking import Asked, Unclear, asked, asks_for_usage, model_in_path, with_model_in_path
from policy_llm.counting import DONE, AnswerCount
from policy_llm.estimates import prompt_size, tokens_of
from policy_llm.heads import Head
from policy_llm.reading import Key, Message, Piece, Reading, Reason
from policy_llm.requests import PROMPT_MEMBERS, ROLES, Place, is_prompt, places

__all__ = [
    "AnswerCount",
    "AnswerReader",
    "Asked",
    "DONE",
    "Head",
    "Key",
    "Message",
    "PROMPT_MEMBERS",
    "Piece",
    "Place",
    "ROLES",
    "Reading",
    "Reason",
    "Unclear",
    "asked",
    "asks_for_usage",
    "is_prompt",
    "model_in_path",
    "places",
    "prompt_size",
    "tokens_of",
    "with_model_in_path",
]
