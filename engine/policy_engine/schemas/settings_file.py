"""The JSON Schema of the settings file, for editors; made from the list of all settings."""

from __future__ import annotations

from typing import Any

from policy_engine.settings.loading import KnownSetting, known_settings
from policy_engine.worker.policies.parameters import DIALECT


def settings_schema() -> dict[str, Any]:
    """Return the schema of the settings file."""
    schema: dict[str, Any] = {"$schema": DIALECT, "title": "Settings of the policy engine", **_section()}
    for one in known_settings():
        *sections, name = one.name.split(".")
        part = schema
        for section in sections:
            # A section whose keys are all commented out reads as null, and sets nothing.
            part = part["properties"].setdefault(section, _section() | {"type": ["object", "null"]})
        part["properties"][name] = _setting(one)
    return schema


def _section() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _setting(known: KnownSetting) -> dict[str, Any]:
    default = known.form.write(known.default)
    text = f"{known.description}; {known.form.allowed}" + (f"; default {default}" if default else "")
    return {"description": f"{text[0].upper()}{text[1:]}.", **known.form.schema}
