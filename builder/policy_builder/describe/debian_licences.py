"""Names of licences in Debian's copyright files, and those that SPDX has for them.

A separate module because Debian writes licences its own way (DEP-5, "machine-readable debian/copyright"), or as prose
that leads to the common texts in /usr/share/common-licenses.
"""

from __future__ import annotations

import re

from license_expression import get_spdx_licensing

_FIELD = re.compile(r"^License:[ \t]*(\S[^\n]*)$", re.MULTILINE | re.IGNORECASE)
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z]+(?:-[0-9][0-9.]*)?)")
_GNU = re.compile(r"(A?L?GPL|GFDL)-(\d)(?:\.(\d))?(\+)?", re.IGNORECASE)
_PYTHON = "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2"
_SPDX_NAMES = {
    "apache-2": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "boost-1.0": "BSL-1.0",
    "bsd": "BSD-3-Clause",
    "expat": "MIT",
    "isc": "ISC",
    "psf-2": "PSF-2.0",
    "zlib": "Zlib",
}
_KNOWN = {str(key).lower(): str(key) for key in get_spdx_licensing().known_symbols}


def licences_in(copyright_text: str) -> list[str]:
    """Return the names of the licences in a copyright file, each once, sorted; none that stand in prose alone."""
    found = set()
    if copyright_text.startswith("Format:"):
        for line in _FIELD.findall(copyright_text):
            found |= {one.strip(" ()") for one in re.split(r"\s+(?:and/or|and|or)\s+|,", line, flags=re.IGNORECASE)}
    else:
        found = {one.rstrip(".") for one in _COMMON.findall(copyright_text)}
        found |= {"PSF-2"} if _PYTHON in copyright_text else set()
    return sorted(found - {""})


def spdx_id(name: str) -> str | None:
    """Return the SPDX identifier of a licence that Debian calls so; None where there is none."""
    gnu = _GNU.fullmatch(name)
    if gnu is not None:
        ending = "or-later" if gnu[4] else "only"
        candidate = f"{gnu[1].upper()}-{gnu[2]}.{gnu[3] or 0}-{ending}"
    else:
        candidate = _SPDX_NAMES.get(name.lower(), name)
    found = _KNOWN.get(candidate.lower())
    return found if found is not None and "+" not in found and "LicenseRef" not in found else None
