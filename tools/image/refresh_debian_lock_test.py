"""Which packages a refreshed lock has, and what is refused."""

from __future__ import annotations

import datetime

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


def test_every_architecture_has_the_same_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def package_list(root: str, suite: str, architecture: str) -> tuple[dict[str, refresh.Package], datetime.datetime]:
        asked.append((root, suite, architecture))
        newer = "2" if (architecture, suite) == ("arm64", "trixie-security") else "1"
        return refresh.packages_in(stanza("libc6", newer)), datetime.datetime(2026, 11, len(asked), tzinfo=datetime.UTC)

    monkeypatch.setattr(refresh, "package_list", package_list)
    known = {"path": "pool/libc6_1.deb", "sha256": "00", "size": 7, "version": "1"}
    packages = {"amd64": {"libc6": known}}
    lock = {"suite": "trixie", "packages": packages}
    entries, published = refresh.refreshed(lock, "https://mirror.test")
    assert [architecture for _, _, architecture in asked] == ["amd64", "amd64", "arm64", "arm64"]
    assert published.day == len(asked)
    assert entries["arm64"]["libc6"]["version"] == "2"
    assert entries["arm64"]["libc6"]["archive"] == "debian-security"
    assert refresh.changes(packages, entries) == ["arm64 libc6 2"]
    assert refresh.changes({"amd64": {"libc6": {**known, "version": "0"}}}, {"amd64": entries["amd64"]}) == [
        "amd64 libc6 0 → 1"
    ]
