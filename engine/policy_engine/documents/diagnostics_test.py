import json

from policy_engine.documents.diagnostics import (
    Diagnostic,
    Rule,
    Severity,
    ordered,
    render_json,
    render_sarif,
    render_text,
)

FINDING = Diagnostic("dir/a b.yaml", "is wrong", 3, 7, "/routes/0", "x" * 200, "this, that", rule=Rule.WRONG_VALUE)
WARNING = Diagnostic("env", "is odd", severity=Severity.WARNING, rule=Rule.INTERFACE)


def test_text_names_place_path_reason_value_and_what_is_allowed() -> None:
    first, second, total = render_text([FINDING, WARNING]).splitlines()
    assert first.startswith('dir/a b.yaml:3:7: /routes/0: is wrong (got "xxx')
    assert first.endswith("…); allowed: this, that")
    assert len(first) < 200
    assert second == "env: warning: is odd"
    assert total == "1 error, 1 warning"


def test_json_counts_and_lists() -> None:
    document = json.loads(render_json([FINDING, WARNING]))
    assert (document["errors"], document["warnings"]) == (1, 1)
    assert document["diagnostics"][0]["line"] == 3
    assert document["diagnostics"][0]["rule"] == "wrong-value"


def test_sarif_has_what_code_hosts_need() -> None:
    log = json.loads(render_sarif([FINDING, WARNING], "1.2.3"))
    assert log["version"] == "2.1.0"
    run = log["runs"][0]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {"wrong-value", "policy-interface"}
    result = run["results"][0]
    assert (result["ruleId"], result["level"]) == ("wrong-value", "error")
    location = result["locations"][0]["physicalLocation"]
    assert location["artifactLocation"]["uri"] == "dir/a%20b.yaml"
    assert location["region"] == {"startLine": 3, "startColumn": 7}
    assert "region" not in run["results"][1]["locations"][0]["physicalLocation"]


def test_absolute_paths_become_file_uris() -> None:
    log = json.loads(render_sarif([Diagnostic("/etc/x.yaml", "is wrong")], "1"))
    assert (
        log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        == "file:///etc/x.yaml"
    )


def test_ordered_by_place_and_none_twice() -> None:
    later = Diagnostic("dir/a b.yaml", "later", 10)
    assert ordered([later, FINDING, WARNING, FINDING]) == (FINDING, later, WARNING)
