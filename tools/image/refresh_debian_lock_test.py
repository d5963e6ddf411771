"""Which packages a refreshed lock has, and what is refused."""

from __future__ import annotations

import pytest

from tools.image import refresh_debian_lock as refresh


def stanza(name: str, version: str, **fields: str) -> str:
    more = "".join(f"{key}: {value}\n" for key, value in fields.items())
    return f"Package: {name}\nVersion: {version}\nFilename: pool/{name}_{version}.deb\nSHA256: 00\nSize: 7\n{more}"


def archives(main: str, security: str = "") -> dict[str, dict[str, refresh.Package]]:
    return {"debian": refresh.packages_in(main), "debian-security": refresh.packages_in(security)}


def test_the_newest_of_both_archives_and_where_it_is() -> None:
    main = stanza("libssl3", "3.5.9-1~deb13u1") + "\n" + stanza("libc6", "2.41-12", Description="a\n b: c")
    security = stanza("libssl3", "3.5.10-1~deb13u1") + "\n" + stanza("libc6", "2.41-9")
    entries = refresh.chosen(["libssl3", "libc6"], archives(main, security))
    assert entries["libc6"] == {"path": "pool/libc6_2.41-12.deb", "sha256": "00", "size": 7, "version": "2.41-12"}
    assert (entries["libssl3"]["version"], entries["libssl3"]["archive"]) == ("3.5.10-1~deb13u1", "debian-security")


def test_all_that_is_missing_is_named() -> None:
    main = stanza("a", "1", Depends="libc6 (>= 2.36), b:any | c, openssl", **{"Pre-Depends": "d"})
    with pytest.raises(refresh.RefreshError) as error:
        refresh.chosen(["a", "gone"], archives(main))
    lines = str(error.value).splitlines()
    assert lines[:-1] == [
        "a 1 needs d",
        "a 1 needs libc6",
        "a 1 needs b | c",
        "gone is in none of the archives debian, debian-security",
    ]


def test_unsigned_lists_are_refused() -> None:
    with pytest.raises(refresh.RefreshError, match="signature"):
        refresh.signed(b"Date: today\n")
