"""Which origins are meant by the configured ones; apart from the policy as it is only about text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from policy_engine.sdk import ParameterError, authority_of

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_ORIGIN = re.compile(
    rf"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<any>\*\.)?(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?P<port>:[0-9]{{1,5}})?"
)
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
            found = _ORIGIN.fullmatch(origin)
            if found is None or (found["any"] and found["host"].startswith("[")):
                raise ParameterError(
                    f"{origin!r} is no origin; write it as browsers do: https://app.example.com, lower case, no path",
                    f"/allow_origins/{index}",
                )
            # Browsers leave the scheme's own port out, so an entry with it would never be met.
            host = authority_of(f"{found['host']}{found['port'] or ''}", found["scheme"])
            if found["any"]:
                self._subdomains.append((f"{found['scheme']}://", f".{host}"))
            else:
                self._exact.add(f"{found['scheme']}://{host}")

    def __contains__(self, origin: str) -> bool:
        if self.any or origin in self._exact:
            return True
        return any(_is_subdomain(origin, scheme, domain) for scheme, domain in self._subdomains)


def _is_subdomain(origin: str, scheme: str, domain: str) -> bool:
    if len(origin) > _LONGEST or not (origin.startswith(scheme) and origin.endswith(domain)):
        return False
    return re.fullmatch(rf"{_LABEL}(?:\.{_LABEL})*", origin[len(scheme) : -len(domain)]) is not None
