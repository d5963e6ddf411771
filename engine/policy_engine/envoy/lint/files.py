"""Reads a file of one or several YAML documents, each with its places in the file.

A separate module because manifests of Kubernetes come several in a file, which no other file of the engine does.
"""

from __future__ import annotations

import re
from pathlib import Path

from policy_engine.documents.diagnostics import Diagnostic
from policy_engine.documents.plain_file import read_plain_file
from policy_engine.documents.yaml_document import MAX_BYTES, Document, read_document, read_document_file

_SEPARATOR = re.compile(r"^---(?:\s.*)?$", re.MULTILINE)


def read_documents(path: Path) -> tuple[list[Document], list[Diagnostic]]:
    """Return the documents of the file, without empty ones, and what is wrong with it."""
    whole, found = read_document_file(path)
    if whole is not None:
        return [whole], found
    try:
        text = read_plain_file(path, MAX_BYTES).decode("utf-8-sig")
    except (OSError, ValueError):
        return [], found
    starts = [match.end() for match in _SEPARATOR.finditer(text)]
    if not starts:
        return [], found
    found = []
    documents = []
    for start, end in zip(
        [0, *starts], [*(match.start() for match in _SEPARATOR.finditer(text)), len(text)], strict=True
    ):
        part = text[start:end]
        if not any(line.strip() and not line.lstrip().startswith("#") for line in part.splitlines()):
            continue
        # The lines before it, empty, so that places are those of the file.
        document, wrong = read_document(str(path), ("\n" * text.count("\n", 0, start) + part).encode())
        found += wrong
        if document is not None:
            documents.append(document)
    return documents, found
