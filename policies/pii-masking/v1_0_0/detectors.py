"""What personal data looks like: each detector finds spans of text, in time linear in the text.

A separate module because the patterns are the policy's knowledge, and nothing here knows of messages or masks. A
pattern only proposes; check digits and neighbours decide.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from policy_patterns import compile_pattern

Span = tuple[int, int]
Detector = Callable[[str], Iterator[Span]]

_LOCAL = frozenset("!#$%&'*+/=?^_`{|}~.-")  # RFC 5322, 3.2.3, beside letters and digits
_LONGEST_LOCAL, _LONGEST_DOMAIN = 64, 253  # RFC 5321, 4.5.3.1
_CARD_RUN = compile_pattern(r"[0-9](?:[ -]?[0-9]){12,}", "")  # groups of digits, at least 13 altogether
_IBAN_HEAD = compile_pattern(r"[A-Za-z]{2}[0-9]{2}", "")
_PHONE = compile_pattern(
    r"(?:\+|00)[1-9](?:[ ().\-/]{0,2}[0-9]){6,13}"  # ITU-T E.164 with the usual separators
    r"|\(?[2-9][0-9]{2}\)?[ .-]?[2-9][0-9]{2}[ .-][0-9]{4}",  # North America without country code
    "",
)
_IPV4 = compile_pattern(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", "")
_IPV6 = compile_pattern(r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?:(?:\.[0-9]{1,3}){3})?", "")
_CARD_DIGITS = range(13, 20)  # ISO/IEC 7812-1
_TWICE = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)  # the digit sum of a doubled digit (Luhn)

# Lengths of the IBAN registry (ISO 13616, SWIFT).
_IBAN_LENGTHS = {
    code: int(length)
    for length, codes in {
        "15": "NO",
        "16": "BE",
        "18": "DK FI FO GL NL SD",
        "19": "MK SI",
        "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH CR HR LI LV",
        "22": "BG BH DE GB GE IE ME RS VA",
        "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG",
        "25": "LY PT ST",
        "26": "IS TR",
        "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HU LB NI PL SV",
        "29": "BR EG PS QA UA",
        "30": "JO KW MU YE",
        "31": "MT SC",
        "32": "LC",
        "33": "RU",
    }.items()
    for code in codes.split()
}
# Python's own expressions: RE2 cannot begin at a place, and these have one way to match only.
_IBAN_TEXTS = {
    length: re.compile(rf"[A-Za-z0-9](?:[ -]?[A-Za-z0-9]){{{length - 1}}}") for length in set(_IBAN_LENGTHS.values())
}


def emails(text: str) -> Iterator[Span]:
    """Find e-mail addresses: from each @ outwards, as far as an address may reach."""
    done = 0
    at = text.find("@")
    while at >= 0:
        start = at
        while start > max(done, at - _LONGEST_LOCAL) and (text[start - 1].isalnum() or text[start - 1] in _LOCAL):
            start -= 1
        end = _domain_end(text, at + 1)
        if start < at and end is not None:
            done = end
            yield start, end
        at = text.find("@", at + 1)


def _domain_end(text: str, start: int) -> int | None:
    """Return where the domain that begins at `start` ends; it has a dot, and a letter behind the last one."""
    end = start
    while end < min(len(text), start + _LONGEST_DOMAIN) and (text[end].isalnum() or text[end] in "-."):
        end += 1
    domain = text[start:end].partition("..")[0].rstrip(".-")
    first, _, last = domain.rpartition(".")
    return start + len(domain) if first and not first.startswith(".") and last[:1].isalpha() and last[1:] else None


def cards(text: str) -> Iterator[Span]:
    """Find payment card numbers: 13 to 19 digits, in groups or not, with a right check digit (Luhn)."""
    for run in _CARD_RUN.finditer(text):
        yield from _cards_in(text[run.start() : run.end()], run.start())


def _cards_in(run: str, offset: int) -> Iterator[Span]:
    """Find the longest card number from each group of digits on; sums of the digits before a place make each cheap."""
    starts, firsts = [], [0]  # of each group: its place in the run, and how many digits come before it
    at = 0
    for group in run.replace("-", " ").split(" "):
        starts.append(at)
        firsts.append(firsts[-1] + len(group))
        at += len(group) + 1
    sums = _luhn_sums(run)
    index, last = 0, len(starts)
    while index < last:
        first, found = firsts[index], 0
        for behind in range(index + 1, last + 1):
            count = firsts[behind] - first
            if count >= _CARD_DIGITS.stop:
                break
            if count >= _CARD_DIGITS.start:
                doubled = sums[firsts[behind] % 2]
                total = doubled[firsts[behind]] - doubled[first]
                if total and total % 10 == 0:
                    found = behind
        if found:
            yield offset + starts[index], offset + starts[found - 1] + firsts[found] - firsts[found - 1]
        index = found or index + 1


def _luhn_sums(run: str) -> tuple[list[int], list[int]]:
    """Return, for numbers that end behind an even and behind an odd number of digits, the sums up to each digit."""
    even, odd = [0], [0]
    place = 0
    for char in run:
        if char in " -":
            continue
        plain, twice = int(char), _TWICE[int(char)]
        even.append(even[-1] + (plain if place % 2 else twice))
        odd.append(odd[-1] + (twice if place % 2 else plain))
        place += 1
    return even, odd


def ibans(text: str) -> Iterator[Span]:
    """Find bank account numbers (IBAN): length of their country, check digits by ISO 7064 MOD 97-10."""
    done = 0
    for head in _IBAN_HEAD.finditer(text):
        start = head.start()
        length = _IBAN_LENGTHS.get(text[start : start + 2].upper())
        if length is None or start < done or _is_word(text, start - 1):
            continue
        found = _IBAN_TEXTS[length].match(text, start)
        if found is None:
            continue
        end = found.end()
        if not _is_word(text, end) and _mod_97(text[start:end]):
            done = end
            yield start, end


def _mod_97(text: str) -> bool:
    plain = text.replace(" ", "").replace("-", "").upper()
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def phones(text: str) -> Iterator[Span]:
    """Find telephone numbers with a country code (+ or 00), and North American ones with separators."""
    for found in _PHONE.finditer(text):
        start, end = found.span()
        if not _is_word(text, start - 1) and not _is_word(text, end):
            yield start, end


def ipv4(text: str) -> Iterator[Span]:
    """Find IPv4 addresses."""
    for found in _IPV4.finditer(text):
        start, end = found.span()
        more = end + 1 < len(text) and text[end] == "." and text[end + 1].isdigit()
        if not _is_word(text, start - 1) and not _is_word(text, end) and not more:
            try:
                ipaddress.IPv4Address(text[start:end])
            except ValueError:
                continue
            yield start, end


def ipv6(text: str) -> Iterator[Span]:
    """Find IPv6 addresses (RFC 4291, 2.2)."""
    for found in _IPV6.finditer(text):
        start, end = found.span()
        if text[end - 1] == ":" and text[end - 2] != ":":
            end -= 1  # punctuation behind the address
        if _is_word(text, start - 1) or _is_word(text, end):
            continue
        try:
            ipaddress.IPv6Address(text[start:end])
        except ValueError:
            continue
        if any(char.isalnum() for char in text[start:end]):
            yield start, end


def custom(pattern: str, where: str) -> Detector:
    """Return the detector of an RE2 pattern from the parameters; raises ParameterError."""
    compiled = compile_pattern(pattern, where)
    return lambda text: (found.span() for found in compiled.finditer(text) if found.end() > found.start())


def _is_word(text: str, at: int) -> bool:
    return 0 <= at < len(text) and text[at].isalnum()


BUILT_IN: dict[str, Detector] = {
    "email": emails,
    "credit_card": cards,
    "iban": ibans,
    "phone": phones,
    "ipv4": ipv4,
    "ipv6": ipv6,
}
"""The detectors by the names that parameters use."""

SHORTEST = {"email": 5, "credit_card": 13, "iban": 15, "phone": 8, "ipv4": 7, "ipv6": 3}
"""Characters in the shortest find of each: text of many short lines is searched for little."""

MARK = re.compile(r"[0-9@:]")
"""What every find of a built-in detector has in it."""
