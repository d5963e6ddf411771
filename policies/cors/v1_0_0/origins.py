"""Which origins are meant by the configured ones; apart from the policy as it is only about text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from policy_engine.sdk import ParameterError
from policy_origins import LABEL, parse_origin

_LONGEST = 512


class Origins:
    """The allowed origins. They compare as text, as browsers send them: lower case, no default port, no path."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self.any = "*" in allowed
        self._exact: set[str] = set()
        self._subdomains: list[tuple[str, str]] = []
        for index, origin in enumerate(allowed):
            if origin in ("*", "null"):
                self._exact.add(origin)
                continue
            try:
                found = parse_origin(origin)
            except ValueError as error:
                raise ParameterError(str(error), f"/allow_origins/{index}") from None
            if found.subdomains:
                self._subdomains.append((f"{found.scheme}://", f".{found.authority}"))
            else:
                self._exact.add(str(found))

    def __contains__(self, origin: str) -> bool:
        if self.any or origin in self._exact:
            return True
        return any(_is_subdomain(origin, scheme, domain) for scheme, domain in self._subdomains)


def _is_subdomain(origin: str, scheme: str, domain: str) -> bool:
    if len(origin) > _LONGEST or not (origin.startswith(scheme) and origin.endswith(domain)):
        return False
    return re.fullmatch(rf"{LABEL}(?:\.{LABEL})*", origin[len(scheme) : -len(domain)]) is not None
