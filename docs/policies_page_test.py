"""policies.md is what the policy.yaml files say, and shows every policy."""

from __future__ import annotations

from docs.policies_page import PAGE, POLICIES, page


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m docs.policies_page`"


def test_every_version_is_in_it_with_its_parameters() -> None:
    text = page()
    for path in POLICIES.glob("*/v*/policy.yaml"):
        name, version = path.parent.parent.name, path.parent.name.replace("_", ".")
        assert f"\n## {name} {version}\n" in text
        assert f"(../policies/{name}/{path.parent.name}/README.md)" in text
    assert "| `rules` | array | required |" in text
    assert "| `wrong_key_status` | `401`, `403` | `403` |" in text
