"""How the denials of a route are written: a format and templates of the operator's own, as plain data.

A separate module because the chain file, the xDS client, the settings and the kernel all mean the same by it.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policy_engine.sdk.error_formats import ErrorFormat
from policy_engine.sdk.header_fields import MediaType, UnreadableHeader
from policy_engine.sdk.header_fields import media_type as parse_media_type
from policy_engine.sdk.header_rules import CONTROL
from policy_engine.sdk.headers import Headers

MAX_TEMPLATES = 50
MAX_TEMPLATE = 16 * 1024
"""Characters in the body of a template."""

VARIABLES = ("status", "title", "detail", "request_id", "route")
"""What a template may show. Why a request was denied is not among them: it is of use to an attacker."""

_ANY = ""
_STATUS = re.compile(r"[45][0-9][0-9]|[45]xx", re.ASCII)
_PLACE = re.compile(r"\{\{([^{}]*)\}\}")
_SAMPLE = {"status": "403", "title": 'a "title"', "detail": "a\ndetail", "request_id": "0b9e-77", "route": "r"}


class TemplateRefused(ValueError):
    """A template cannot be used; `part` is the key that is wrong."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


@dataclass(frozen=True, slots=True)
class ErrorTemplate:
    """The body of denials with one status (`401`), a class of them (`4xx`), or any (an empty `status`).

    `body` holds `{{ name }}` for each of `VARIABLES`, which is written as text of the content type is: escaped in JSON,
    HTML and XML.
    """

    body: str
    content_type: str = "text/plain; charset=utf-8"
    status: str = _ANY

    def fits(self, status: int) -> bool:
        """Return whether it is for `status`."""
        own = self.status
        return not own or own == str(status) or own == f"{status // 100}xx"

    def rendered(self, values: Mapping[str, str]) -> bytes:
        """Return the body with the `values` of its variables."""
        escape = _escape_of(self.content_type)
        return _PLACE.sub(lambda place: escape(values[place[1].strip()]), self.body).encode()


@dataclass(frozen=True, slots=True)
class ErrorAnswers:
    """How denials are written: `format` (None leaves it to what is more general), except where a template fits.

    The first template that fits is taken.
    """

    format: ErrorFormat | None = None
    templates: tuple[ErrorTemplate, ...] = ()

    def template(self, status: int) -> ErrorTemplate | None:
        """Return the template for `status`, if there is one."""
        for one in self.templates:
            if one.fits(status):
                return one
        return None

    def over(self, general: ErrorAnswers | None) -> ErrorAnswers:
        """Return these answers with those of something more `general` for what they do not say."""
        if general is None:
            return self
        return ErrorAnswers(self.format or general.format, self.templates + general.templates)

    def as_document(self) -> dict[str, Any]:
        """Return them as they stand in a chain file."""
        document: dict[str, Any] = {} if self.format is None else {"format": self.format.value}
        if self.templates:
            document["templates"] = [
                {
                    **({"status": one.status} if one.status else {}),
                    "content_type": one.content_type,
                    "body": one.body,
                }
                for one in self.templates
            ]
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ErrorAnswers:
        """Return what `as_document` wrote."""
        written = document.get("format")
        return cls(
            None if written is None else ErrorFormat(written),
            tuple(ErrorTemplate(**one) for one in document.get("templates", ())),
        )


def by_specificity(templates: Sequence[ErrorTemplate]) -> tuple[ErrorTemplate, ...]:
    """Return templates in the order in which they are to be tried: one status, a class of them, any."""
    return tuple(sorted(templates, key=lambda one: (not one.status, one.status.endswith("xx"))))


def check_template(template: ErrorTemplate) -> None:
    """Raise TemplateRefused unless `template` can be written for every denial it is for."""
    if template.status and not _STATUS.fullmatch(template.status):
        raise TemplateRefused("status", "is not a status from 400 to 599, nor 4xx or 5xx")
    raw = template.content_type.encode("utf-8", "surrogatepass")
    if CONTROL.search(raw) or not raw.isascii() or _media_type(template.content_type) is None:
        raise TemplateRefused("content_type", "is not a media type such as application/json (RFC 9110, 8.3.1)")
    if len(template.body) > MAX_TEMPLATE:
        raise TemplateRefused("body", f"has {len(template.body)} characters; at most {MAX_TEMPLATE} are allowed")
    try:
        template.body.encode()
    except UnicodeEncodeError:
        raise TemplateRefused("body", "holds a lone surrogate, which is no character") from None
    for place in _PLACE.finditer(template.body):
        if place[1].strip() not in VARIABLES:
            raise TemplateRefused("body", f"{place[0]!r:.80} is no variable; there are {', '.join(VARIABLES)}")
    rest = _PLACE.sub("", template.body)
    if _escape_of(template.content_type) is not _json_text and ("{{" in rest or "}}" in rest):
        raise TemplateRefused("body", "holds {{ or }} that is no variable; a variable is written {{ title }}")
    if _escape_of(template.content_type) is _json_text:
        try:
            json.loads(template.rendered(_SAMPLE))
        except ValueError as error:
            raise TemplateRefused(
                "body", f"is not JSON once its variables have values ({error}); put variables of text in quotes"
            ) from None


def _media_type(text: str) -> MediaType | None:
    try:
        return parse_media_type(Headers.of({"content-type": text}))
    except UnreadableHeader:
        return None


def _escape_of(content_type: str) -> Callable[[str], str]:
    essence = content_type.partition(";")[0].strip().lower()
    if essence.endswith(("/json", "+json")):
        return _json_text
    if essence.endswith(("/html", "/xml", "+xml")):
        return html.escape
    return _plain


def _json_text(value: str) -> str:
    return json.dumps(value)[1:-1]


def _plain(value: str) -> str:
    return value
