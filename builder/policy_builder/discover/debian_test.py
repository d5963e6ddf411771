"""Where the Debian packages of the base layer are fetched from."""

from __future__ import annotations

import pytest

from policy_builder.discover.debian import DebianPackage


@pytest.mark.parametrize(
    ("mirror", "archive", "root"),
    [
        ("https://mirror.test/debian", "debian", "https://mirror.test/debian"),
        ("https://mirror.test/debian", "debian-security", "https://mirror.test/debian-security"),
        ("https://s.test/archive/debian/2026Z", "debian-security", "https://s.test/archive/debian-security/2026Z"),
        ("file:///anywhere", "debian", "file:///anywhere"),
    ],
)
def test_security_updates_are_in_the_archive_beside(mirror: str, archive: str, root: str) -> None:
    assert DebianPackage("libc6", "1", "pool/x.deb", "00", archive).root(mirror) == root
