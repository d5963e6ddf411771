"""The recipe of every image, for Python: what recipe.bzl says, which Bazel loads.

A separate module because that file is written in what Starlark and Python have in common, without types. Standard
library only, since every layer is made with it.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

_Entry = TypeVar("_Entry")
_RECIPE: Mapping[str, Any] = runpy.run_path(str(Path(__file__).with_name("recipe.bzl")), run_name="recipe")

PYTHON: str = _RECIPE["PYTHON"]
PYTHON_PACKAGES: tuple[str, ...] = tuple(_RECIPE["PYTHON_PACKAGES"])
GLIBC_MINOR: int = _RECIPE["GLIBC_MINOR"]
MACHINES: Mapping[str, str] = _RECIPE["MACHINES"]

SITE_PACKAGES: str = _RECIPE["SITE_PACKAGES"]
POLICIES: str = _RECIPE["POLICIES"]
CONFIGURATION: str = _RECIPE["CONFIGURATION"]
LAUNCHER: str = _RECIPE["LAUNCHER"]
MODULES: tuple[str, ...] = tuple(_RECIPE["MODULES"])
DOCUMENTS: Mapping[str, str] = _RECIPE["DOCUMENTS"]

ENTRYPOINT: tuple[str, ...] = tuple(_RECIPE["ENTRYPOINT"])
USER_ID: int = _RECIPE["USER_ID"]
USER: str = _RECIPE["USER"]
WORKDIR: str = _RECIPE["WORKDIR"]
PARTS: Mapping[str, Sequence[str]] = _RECIPE["PARTS"]
PORTS: tuple[str, ...] = tuple(_RECIPE["PORTS"])
ENVIRONMENT: Mapping[str, str] = _RECIPE["ENVIRONMENT"]
COMPRESSION: str = _RECIPE["COMPRESSION"]
COMPRESSIONS: Mapping[str, str] = _RECIPE["COMPRESSIONS"]
MAX_POLICY_LAYERS: int = _RECIPE["MAX_POLICY_LAYERS"]

MANIFEST_FORMAT: str = _RECIPE["MANIFEST_FORMAT"]
MANIFEST_KEYS: tuple[str, ...] = tuple(_RECIPE["MANIFEST_KEYS"])
MANIFEST_ENTRY_KEYS: tuple[str, ...] = tuple(_RECIPE["MANIFEST_ENTRY_KEYS"])
DEFAULT_REPOSITORY: str = _RECIPE["DEFAULT_REPOSITORY"]
ENGINE_MODULE: str = _RECIPE["ENGINE_MODULE"]
LIBRARIES: str = _RECIPE["LIBRARIES"]

is_own_label: Callable[[str], bool] = _RECIPE["is_own_label"]
is_own_variable: Callable[[str], bool] = _RECIPE["is_own_variable"]
is_test: Callable[[str], bool] = _RECIPE["is_test"]
is_debris: Callable[[str], bool] = _RECIPE["is_debris"]
is_nested_package: Callable[[str], bool] = _RECIPE["is_nested_package"]
belongs_in_image: Callable[[str], bool] = _RECIPE["belongs_in_image"]
library_belongs_in_image: Callable[[str], bool] = _RECIPE["library_belongs_in_image"]
is_stripped: Callable[[str], bool] = _RECIPE["is_stripped"]
wheel_belongs_in_image: Callable[[str], bool] = _RECIPE["wheel_belongs_in_image"]
policy_directory: Callable[[str, str], str] = _RECIPE["policy_directory"]


def layers(
    requirements: Sequence[_Entry],
    engine: Sequence[_Entry],
    policy_requirements: Sequence[_Entry],
    policies: Sequence[tuple[str, Sequence[_Entry]]],
    documents: Sequence[_Entry],
) -> list[tuple[str, Sequence[_Entry]]]:
    """Return name and entries of each layer above the base, lowest first; `policies` are sorted."""
    found: list[tuple[str, Sequence[_Entry]]] = _RECIPE["layers"](
        requirements, engine, policy_requirements, policies, documents
    )
    return found
