"""Which of a wheel's files an image gets."""

from __future__ import annotations

import pytest

from policy_builder.discover.wheels import belongs_in_image


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("xds/core.py", True),
        ("_brotli.cpython-313-x86_64-linux-gnu.so", True),
        ("xds_protos-1.85.0.dist-info/METADATA", True),
        ("numpy.libs/libgfortran-040039e1.so", True),
        ("google/api-core/x.py", True),
        ("bazel-project/bazel-out/x_pb2.py", False),
        ("yaml-stubs/__init__.pyi", False),
        ("setuptools/script (dev).tmpl", False),
    ],
)
def test_only_what_an_import_can_lead_to(name: str, belongs: bool) -> None:
    assert belongs_in_image(name) is belongs
