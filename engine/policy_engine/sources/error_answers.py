"""Reads the `errors` of a chain file or of one of its routes, and says what is wrong with them.

A separate module because a file and a route have the same section.
"""

from __future__ import annotations

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.fields import Fields
from policy_engine.documents.yaml_document import Document
from policy_engine.sdk.error_formats import ErrorFormat
from policy_engine.sdk.json_pointer import Path
from policy_engine.worker.chains.error_answers import (
    MAX_TEMPLATE,
    MAX_TEMPLATES,
    ErrorAnswers,
    ErrorTemplate,
    TemplateRefused,
    by_specificity,
    check_template,
)

ERRORS_KEYS = ("format", "templates")
TEMPLATE_KEYS = ("status", "content_type", "body")

_LONGEST_CONTENT_TYPE = 256
_STATUS_FORMS = "a status from 400 to 599, 4xx or 5xx; leave it out for all"


def read_errors(document: Document, path: Path, diagnostics: list[Diagnostic]) -> ErrorAnswers:
    """Return the errors section at `path` as far as it is right; what is wrong goes to `diagnostics`."""
    fields = Fields(document, path, ERRORS_KEYS, diagnostics, "an errors section")
    written = fields.choice("format", tuple(ErrorFormat)) if "format" in fields else None
    templates = [
        _template(document, (*path, "templates", index), diagnostics)
        for index, _ in enumerate(fields.items("templates", required=False, most=MAX_TEMPLATES))
    ]
    return ErrorAnswers(
        None if written is None else ErrorFormat(written),
        by_specificity([one for one in templates if one is not None]),
    )


def _template(document: Document, path: Path, diagnostics: list[Diagnostic]) -> ErrorTemplate | None:
    fields = Fields(document, path, TEMPLATE_KEYS, diagnostics, "a template")
    body = fields.text("body", required=True, longest=MAX_TEMPLATE)
    content_type = fields.text("content_type", longest=_LONGEST_CONTENT_TYPE)
    status = fields.raw("status")
    if isinstance(status, int) and not isinstance(status, bool):
        status = str(status)
    elif status is None and "status" not in fields:
        status = ""
    elif not isinstance(status, str):
        fields.error(("status",), "must be a status", rule=Rule.WRONG_TYPE, allowed=_STATUS_FORMS)
        return None
    if body is None or not fields.ok:
        return None
    given = ErrorTemplate(body, status=status)
    template = given if content_type is None else ErrorTemplate(body, content_type, status)
    try:
        check_template(template)
    except TemplateRefused as error:
        shown = status if error.part == "status" else None
        allowed = _STATUS_FORMS if error.part == "status" else ""
        fields.error((error.part,), str(error), value=shown, allowed=allowed)
        return None
    return template
