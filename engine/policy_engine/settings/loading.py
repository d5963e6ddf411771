"""Settings gathered from flags, environment, file and defaults, in this order of precedence (R-25).

A separate module because `model` says what there is, and this module where it comes from and how it is shown.
"""

from __future__ import annotations

import argparse
import json as json_format
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from policy_engine.documents.diagnostics import Diagnostic, Rule, has_errors, ordered, render_text
from policy_engine.documents.fields import did_you_mean
from policy_engine.documents.json_types import type_in_words
from policy_engine.documents.yaml_document import Document, read_document_file
from policy_engine.sdk.json_pointer import format_pointer
from policy_engine.settings.forms import Form
from policy_engine.settings.model import Settings, contradictions

ENVIRONMENT_PREFIX = "POLICY_ENGINE_"
CONFIG_VARIABLE = "POLICY_ENGINE_CONFIG"
DEFAULT_PREFIX = "POLICY_ENGINE_DEFAULT_"
"""Environment variables with which an image sets defaults of its own: whatever an operator writes goes before them."""
_FLAG_PREFIX = "setting:"

__all__ = [
    "KnownSetting",
    "Settings",
    "SettingsError",
    "add_flags",
    "known_settings",
    "load_settings",
    "render_settings",
    "sample_file",
    "service_links",
]

# What Kubernetes sets in every pod for each Service of its namespace (its documentation, "Discovering services"), here
# for those whose names begin with policy-engine. Of these only {NAME}_PORT could be meant as a setting: it is a link
# when its value is one, as in tcp://10.0.0.11:6379.
_SERVICE_LINK = re.compile(
    r"POLICY_ENGINE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
_SERVICE_PORT = re.compile(r"POLICY_ENGINE_(\w+_)?PORT", re.ASCII)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+", re.ASCII)


class SettingsError(ValueError):
    """The settings cannot be used; `diagnostics` lists everything wrong with them."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        self.diagnostics = diagnostics
        super().__init__(render_text(diagnostics).rstrip())


@dataclass(frozen=True, slots=True)
class KnownSetting:
    """One setting: its dotted name and how it is written."""

    name: str
    form: Form
    default: Any
    description: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENVIRONMENT_PREFIX + self.name.replace(".", "_").upper()

    @property
    def flag(self) -> str:
        """The flag that sets it."""
        return "--" + self.name.replace(".", "-").replace("_", "-")

    @property
    def is_list(self) -> bool:
        """Whether it may be given several times."""
        return isinstance(self.default, tuple)


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as one source gave it, with the way to report on it."""

    text: str
    origin: str
    diagnostic: Diagnostic
    base: Path | None = None


def known_settings() -> tuple[KnownSetting, ...]:
    """Return every setting, in the order in which they are shown."""
    return tuple(_walk(Settings(), ""))


def _walk(section: Any, prefix: str) -> Iterator[KnownSetting]:
    for one in _fields(section):
        value = getattr(section, one.name)
        if is_dataclass(value):
            yield from _walk(value, f"{prefix}{one.name}.")
        else:
            yield KnownSetting(f"{prefix}{one.name}", one.metadata["form"], value, one.metadata["description"])


def _fields(section: Any) -> tuple[Field[Any], ...]:
    return tuple(one for one in fields(section) if one.name != "origins")


def add_flags(parser: argparse.ArgumentParser, shown: tuple[str, ...] | None = None) -> None:
    """Add a flag for every setting (`--listen`, `--tls-cert`, …); `load_settings` reads them from the namespace.

    The help shows all, or those in `shown`: names, or beginnings of names that end with a dot.
    """
    others = "" if shown is None else "; those of `policy-engine run --help` that are not listed are taken too"
    group = parser.add_argument_group(
        "settings", f"each overrides its environment variable and the settings file{others}"
    )
    for known in known_settings():
        default = known.form.write(known.default)
        note = f" (default {default})" if default else ""
        hidden = shown is not None and not any(
            known.name.startswith(one) if one.endswith(".") else known.name == one for one in shown
        )
        group.add_argument(
            known.flag,
            dest=_FLAG_PREFIX + known.name,
            metavar=known.name.rpartition(".")[2].upper(),
            action="append" if known.is_list else "store",
            default=None,
            help=argparse.SUPPRESS if hidden else f"{known.description}{note}; {known.variable}".replace("%", "%%"),
        )


def load_settings(
    path: Path | None, environ: Mapping[str, str], flags: argparse.Namespace | Mapping[str, Any] | None = None
) -> Settings:
    """Return the effective settings: flags, then environment, then the file `path`, then the image's and own defaults.

    `flags` is the namespace that a parser with `add_flags` returned, or a mapping by setting name. Relative paths in
    the file are relative to the file. Raises SettingsError with every mistake of every source.
    """
    known = {one.name: one for one in known_settings()}
    diagnostics: list[Diagnostic] = []
    given = _from_environment(environ, known, diagnostics, DEFAULT_PREFIX)
    given |= _from_file(path, known, diagnostics) if path is not None else {}
    given |= _from_environment(environ, known, diagnostics, ENVIRONMENT_PREFIX)
    given |= _from_flags(flags, known)
    values: dict[str, Any] = {}
    origins = {}
    for name, one in known.items():
        source = given.get(name)
        values[name] = one.default
        origins[name] = source.origin if source is not None else "default"
        if source is not None:
            try:
                values[name] = _absolute(one.form.parse(source.text), source.base)
            except ValueError as error:
                reason = str(error) if str(error).startswith(("is ", "has ", "names ")) else "is not valid"
                diagnostics.append(
                    replace(source.diagnostic, reason=reason, value=source.text, allowed=one.form.allowed)
                )
    settings: Settings = _build(Settings(), "", values)
    if not has_errors(diagnostics):
        for name, reason in contradictions(settings).items():
            source = given.get(name)
            place = source.diagnostic if source is not None else Diagnostic(str(path or "settings"), "")
            diagnostics.append(replace(place, reason=f"{name} {reason}", path=_pointer(name)))
    if has_errors(diagnostics):
        raise SettingsError(ordered(diagnostics))
    return replace(settings, origins=origins)


def render_settings(settings: Settings, json: bool = False) -> str:
    """Return every effective value and where it came from, as aligned text or as JSON."""
    rows = [
        (one.name, one.form.write(_value(settings, one.name)), settings.origins.get(one.name, "default"))
        for one in known_settings()
    ]
    if json:
        return json_format.dumps({name: {"value": value, "origin": origin} for name, value, origin in rows}, indent=2)
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}" for name, value, origin in rows)


def sample_file() -> str:
    """Return a settings file with every setting in it, commented out, with its meaning and default."""
    lines = [
        "# Settings of the policy engine. Every line shows a default; remove the `#` in front of a key to change it.",
        "# A flag (--tls-cert) overrides an environment variable (POLICY_ENGINE_TLS_CERT), which overrides this file.",
        "# Relative paths are relative to this file. `policy-engine config show` prints what is in effect, and why.",
        "",
    ]
    open_sections: list[str] = []
    for known in known_settings():
        *sections, key = known.name.split(".")
        if sections != open_sections:
            same = sum(1 for ours, theirs in zip(sections, open_sections, strict=False) if ours == theirs)
            lines += [f"{'  ' * depth}{sections[depth]}:" for depth in range(same, len(sections))]
            open_sections = sections
        indent = "  " * len(sections)
        allowed = f" ({known.form.allowed})" if known.form.allowed not in ("text", "a path", "true, false") else ""
        value = known.form.write(known.default)
        lines += [f"{indent}# {known.description}{allowed}", f"{indent}# {key}:{f' {value}' if value else ''}"]
    return "\n".join(lines) + "\n"


def _from_file(path: Path, known: Mapping[str, KnownSetting], diagnostics: list[Diagnostic]) -> dict[str, _Given]:
    document, found = read_document_file(path, "the settings file")
    diagnostics += found
    given: dict[str, _Given] = {}
    if document is None or document.value is None:
        return given
    if not isinstance(document.value, dict):
        reason = f"the settings file must be an object, not {type_in_words(document.value)}"
        diagnostics.append(document.diagnostic((), reason, rule=Rule.WRONG_TYPE))
        return given
    for names, value in _leaves(document.value, (), known):
        name = ".".join(names)
        if name not in known:
            diagnostics.append(_unknown_key(document, names, known))
            continue
        text = _as_text(value, known[name])
        place = document.diagnostic(names, "")
        if text is None:
            reason = f"must not be {type_in_words(value)}"
            allowed = known[name].form.allowed
            diagnostics.append(replace(place, reason=reason, allowed=allowed, rule=Rule.WRONG_TYPE))
            continue
        given[name] = _Given(text, f"{path}:{place.line}", place, path.parent)
    return given


def _leaves(
    section: Mapping[str, Any], names: tuple[str, ...], known: Mapping[str, KnownSetting]
) -> Iterator[tuple[Any, Any]]:
    """Yield the path and the value of every setting and of every unknown key."""
    for name, value in section.items():
        path = (*names, name)
        is_section = any(one.startswith(".".join(path) + ".") for one in known)
        if is_section and isinstance(value, dict):
            yield from _leaves(value, path, known)
        elif not is_section or value is not None:
            # A section whose keys are all commented out reads as null, and sets nothing.
            yield path, value


def _unknown_key(document: Document, names: tuple[str, ...], known: Mapping[str, KnownSetting]) -> Diagnostic:
    prefix = ".".join(names[:-1]) + "." if len(names) > 1 else ""
    here = list(dict.fromkeys(one.removeprefix(prefix).split(".")[0] for one in known if one.startswith(prefix)))
    name = ".".join(names)
    if names[-1] in here:
        reason, allowed = f"{name!r} is a group of settings and must be an object", ""
        allowed = ", ".join(one.removeprefix(f"{name}.") for one in known if one.startswith(f"{name}."))
        return document.diagnostic(names, reason, rule=Rule.WRONG_TYPE, allowed=allowed)
    meant = did_you_mean(names[-1], here)
    if not meant:
        elsewhere = [one for one in known if one.rpartition(".")[2] == names[-1]]
        meant = f"; did you mean {elsewhere[0]!r}?" if elsewhere else did_you_mean(name, known)
    reason = f"{name!r} is not a setting{meant}"
    return document.diagnostic(names, reason, key=True, rule=Rule.UNKNOWN_KEY, allowed=", ".join(here))


def _as_text(value: Any, known: KnownSetting) -> str | None:
    """Return a file's value as the text that a flag would carry, None when it is of a kind no setting has."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        text = repr(value)
        return f"{value:.9f}" if "e" in text else text
    if isinstance(value, str):
        return value
    if isinstance(value, list) and known.is_list and all(isinstance(one, str) and "," not in one for one in value):
        return ",".join(value)
    return None


def _from_environment(
    environ: Mapping[str, str], known: Mapping[str, KnownSetting], diagnostics: list[Diagnostic], prefix: str
) -> dict[str, _Given]:
    variables = {prefix + one.variable.removeprefix(ENVIRONMENT_PREFIX): name for name, one in known.items()}
    given = {}
    for variable, text in environ.items():
        if not variable.startswith(prefix) or variable == CONFIG_VARIABLE:
            continue
        if prefix == ENVIRONMENT_PREFIX and variable.startswith(DEFAULT_PREFIX):
            continue
        name = variables.get(variable)
        if name is not None:
            origin = f"environment variable {variable}"
            given[name] = _Given(text, origin, Diagnostic(origin, "", path=_pointer(name)))
        elif not _is_service_link(variable, text):
            reason = f"is not the variable of a setting{did_you_mean(variable, variables)}"
            diagnostics.append(Diagnostic(f"environment variable {variable}", reason, rule=Rule.UNKNOWN_KEY))
    return given


def service_links(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that look like settings, and are what Kubernetes sets for Services (they are ignored)."""
    return tuple(sorted(name for name, value in environ.items() if _is_service_link(name, value)))


def _is_service_link(name: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(name):
        return True
    return _SERVICE_PORT.fullmatch(name) is not None and _SERVICE_ADDRESS.fullmatch(value) is not None


def _from_flags(
    flags: argparse.Namespace | Mapping[str, Any] | None, known: Mapping[str, KnownSetting]
) -> dict[str, _Given]:
    values: Mapping[str, Any]
    if isinstance(flags, argparse.Namespace):
        values = {name.removeprefix(_FLAG_PREFIX): value for name, value in vars(flags).items()}
    else:
        values = flags or {}
    given = {}
    for name, one in known.items():
        value = values.get(name)
        if value is not None:
            text = ",".join(value) if isinstance(value, list | tuple) else str(value)
            given[name] = _Given(text, f"flag {one.flag}", Diagnostic(f"flag {one.flag}", "", path=_pointer(name)))
    return given


def _pointer(name: str) -> str:
    return format_pointer(name.split("."))


def _absolute(value: Any, base: Path | None) -> Any:
    if isinstance(value, Path) and base is not None:
        return base / value
    if isinstance(value, tuple):
        return tuple(_absolute(one, base) for one in value)
    return value


def _build(section: Any, prefix: str, values: Mapping[str, Any]) -> Any:
    changes = {}
    for one in _fields(section):
        current = getattr(section, one.name)
        name = f"{prefix}{one.name}"
        changes[one.name] = _build(current, f"{name}.", values) if is_dataclass(current) else values[name]
    return replace(section, **changes)


def _value(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
