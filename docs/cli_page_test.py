"""cli.md is what the programs' own help says."""

from __future__ import annotations

from docs.cli_page import PAGE, page


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m docs.cli_page`"


def test_exit_codes_and_every_command_are_in_it() -> None:
    text = page()
    for part in ("## policy-engine run", "### policy-engine config show", "## policy-control-plane", "exit status:"):
        assert part in text
