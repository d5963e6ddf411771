from __future__ import annotations

import os
from pathlib import Path

import pytest

from policy_engine.documents.secret_references import (
    MAX_SECRET_BYTES,
    Resolution,
    SecretSource,
    digest_secret_file,
    resolve_secrets,
)

SECRET = "hunter2-and-more"


def resolve(parameters: object, **environ: str) -> Resolution:
    return resolve_secrets(parameters, SecretSource(environ))


def test_whole_embedded_and_several() -> None:
    result = resolve(
        {"a": "${env:ONE}", "b": {"c": ["Bearer ${env:ONE}/${env:TWO}", "plain"]}, "n": 5}, ONE=SECRET, TWO="second"
    )
    assert result.parameters == {"a": SECRET, "b": {"c": [f"Bearer {SECRET}/second", "plain"]}, "n": 5}
    assert result.pointers == {"/a", "/b/c/0"}
    assert result.problems == []


def test_a_file_without_its_last_newline(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("line one\nline two\n")
    assert resolve(f"${{file:{file}}}").parameters == "line one\nline two"


def test_other_dollar_texts_stay_as_they_are() -> None:
    for text in ("$x", "$", "$ {env:X}", "$$x", "^a$", "{env:X}", "}", "a{2}$"):
        result = resolve(text)
        assert (result.parameters, result.problems) == (text, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${ENV:X}", "did you mean ${env:…}"),
        ("${ env:X}", "did you mean ${env:…}"),
        ("${env :X}", "did you mean ${env:…}"),
        ("${File:/run/x}", "did you mean ${file:…}"),
        ("${file/run/x}", "did you mean ${file:…}"),
        ("${env.X}", "did you mean ${env:…}"),
        ("${vault:x}", "is not a reference to a secret"),
        ("${request.path}", "is not a reference to a secret"),
        ("${}", "is not a reference to a secret"),
        ("${", "is not closed by }"),
        ("${env:HOME", "is not closed by }"),
        ("${file:/run/x then", "is not closed by }"),
        ("ok ${env:X} and ${env:X", "is not closed by }"),
        ("${file:/a/${env:B}}", "inside another one"),
        ("${env:${env:X}}", "inside another one"),
        ("${env:{X}}", "did you mean ${env:…}"),
        ("a ${vault:x} b", "is not a reference to a secret"),
    ],
)
def test_what_looks_like_a_reference_and_is_none_is_refused(text: str, reason: str) -> None:
    result = resolve({"a": text, "good": "${env:X}"}, X=SECRET, B="b", HOME="h")
    paths = {path for path, _ in result.problems}
    assert paths == result.malformed == {("a",)}
    assert reason in result.problems[0][1]
    assert "$${ for the text ${" in result.problems[0][1]


def test_a_malformed_reference_is_not_quoted() -> None:
    """It may be a password with a `${` in it."""
    for text in ("hunter2${hunter3", "${hunter2}", "hunter2${hunter3:hunter4}"):
        assert "hunter" not in resolve(text).problems[0][1]


def test_a_key_cannot_be_a_secret() -> None:
    result = resolve({"a": {"${env:X}": 1, "$${x": 2}}, X=SECRET)
    assert result.malformed == {("a", "${env:X}")}
    assert result.parameters == {"a": {"${env:X}": 1, "$${x": 2}}


@pytest.mark.parametrize("text", ["${env:X}", "${vault:x}", "${", "${env:X", "${file:/a/${env:B}}", "${}"])
def test_a_doubled_dollar_stands_for_one_whatever_follows(text: str) -> None:
    result = resolve(f"a $${text.replace('${', '$${', 1)[2:]}".replace("${env:B}", "$${env:B}"))
    assert result.problems == []
    assert result.parameters == f"a {text}"


def test_a_doubled_dollar_is_the_text_itself() -> None:
    result = resolve("$${env:ONE} ${env:ONE}", ONE="v")
    assert result.parameters == "${env:ONE} v"


def test_a_secret_that_looks_like_a_reference_is_not_resolved_again() -> None:
    assert resolve("${env:ONE}", ONE="${env:TWO}", TWO="x").parameters == "${env:TWO}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${env:MISSING}", "the environment variable MISSING is not set"),
        ("${env:EMPTY}", "the environment variable EMPTY is empty"),
        ("${env:NO-NAME}", "does not name an environment variable"),
        ("${env:}", "does not name an environment variable"),
        ("${file:relative}", "absolute path"),
        ("${file:/a/../etc/passwd}", "absolute path"),
        ("${file:/a\0}", "control characters"),
        ("${file:/a\nb}", "control characters"),
        ("${file:/nowhere/at/all}", "cannot be read: No such file"),
        ("${file:/dev/zero}", "cannot be read: it is not a regular file"),
        ("${file:/}", "cannot be read: it is not a regular file"),
    ],
)
def test_references_that_lead_nowhere(text: str, reason: str) -> None:
    result = resolve({"a": [text]}, EMPTY="")
    assert [(path, reason in said) for path, said in result.problems] == [(("a", 0), True)], result.problems


def test_files_that_cannot_be_secrets(tmp_path: Path) -> None:
    for name, content, reason in [
        ("big", b"x" * (MAX_SECRET_BYTES + 1), "larger than"),
        ("binary", b"\xff\xfe", "not UTF-8"),
        ("empty", b"\n", "is empty"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert reason in resolve(f"${{file:{tmp_path / name}}}").problems[0][1]
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in resolve(f"${{file:{tmp_path / 'pipe'}}}").problems[0][1]


def test_directories_fence_secrets_in_even_through_links(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.write_text("other")
    (inside / "good").write_text("fine")
    (inside / "link").symlink_to(outside)
    source = SecretSource({}, directories=(inside,))
    assert resolve_secrets(f"${{file:{inside / 'good'}}}", source).parameters == "fine"
    for path in (outside, inside / "link"):
        assert "outside the directories" in resolve_secrets(f"${{file:{path}}}", source).problems[0][1]


def test_nothing_is_told_of_what_lies_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for directory in (inside, outside):
        directory.mkdir()
    (outside / "there").write_text("other")
    (outside / "big").write_bytes(b"x" * (MAX_SECRET_BYTES + 1))
    (outside / "binary").write_bytes(b"\xff")
    (outside / "empty").write_text("")
    os.mkfifo(outside / "pipe")
    (outside / "locked").write_text("locked")
    (outside / "locked").chmod(0)
    (outside / "loop").symlink_to(outside / "loop")
    monkeypatch.setattr(
        "policy_engine.documents.secret_references.read_plain_file", lambda *_: pytest.fail("it was touched")
    )
    for directories in ((inside,), ()):
        source = SecretSource({}, directories=directories)
        told = set()
        for name in ("there", "not_there", "big", "binary", "empty", "pipe", "locked", "loop", "", "no/such/directory"):
            for path in (outside / name, inside / f"link-{name.replace('/', '-')}"):
                if path.parent == inside:
                    path.unlink(missing_ok=True)
                    path.symlink_to(outside / name)
                result = resolve_secrets(f"${{file:{path}}}", source)
                told.add(result.problems[0][1].replace(str(path), "PATH"))
        assert len(told) == 1, told
        assert source.files == {}


def test_repeating_a_reference_does_not_fill_memory() -> None:
    result = resolve(["${env:BIG}" * 1000] * 10, BIG="x" * 60_000)
    assert "longer than" in result.problems[0][1]
    assert sum(map(len, result.parameters)) < 4 << 20


def test_one_load_reads_a_file_once_and_notes_what_it_read(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first")
    source = SecretSource({})
    assert resolve_secrets(f"${{file:{file}}}", source).parameters == "first"
    file.write_text("second")
    assert resolve_secrets(f"${{file:{file}}}", source).parameters == "first"
    assert source.files[file] != digest_secret_file(file)
    file.write_text("first")
    assert source.files[file] == digest_secret_file(file)


def test_missing_files_are_noted_too_so_that_their_coming_is_a_change(tmp_path: Path) -> None:
    source = SecretSource({})
    resolve_secrets(f"${{file:{tmp_path / 'later'}}}", source)
    assert source.files[tmp_path / "later"] == digest_secret_file(tmp_path / "later")
    (tmp_path / "later").write_text("here")
    assert source.files[tmp_path / "later"] != digest_secret_file(tmp_path / "later")


def test_secrets_are_struck_out_of_messages_and_reprs() -> None:
    result = resolve({"a": "Bearer ${env:ONE}"}, ONE=f"{SECRET}\n'quoted' second line")
    for text in (
        SECRET,
        "Bearer " + SECRET,
        f"{SECRET}\n'quoted' second line",
        repr(f"{SECRET}\n'quoted' second line"),
    ):
        assert SECRET not in result.scrub(f"cannot use {text}!")
    assert SECRET not in repr(result)
    assert SECRET not in repr(SecretSource({"ONE": SECRET}))


def test_pieces_of_secrets_are_struck_out_too() -> None:
    """Errors of parsers quote the part that they do not like."""
    result = resolve({"a": "${env:ONE}"}, ONE="^/(hunter2|swordfish$")
    for piece in ("(hunter2|swordfish$", "swordfish", "hunter2", "fish$"):
        said = result.scrub_pieces(f"missing ): {piece} at position 2")
        assert piece not in said
        assert said.startswith("missing ): ***")
    assert result.scrub_pieces("nothing of it") == "nothing of it"
