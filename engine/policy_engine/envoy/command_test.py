"""The command `envoy-config`: where its output goes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from policy_engine.cli import main
from testsupport.policy_directories import write_policy

CHAINS = """\
version: v1
routes:
  - route_key: r
    policies: [{name: tested, version: v1, timeout: 3s}]
"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    write_policy(tmp_path / "policies")
    (tmp_path / "chains.yaml").write_text(CHAINS)
    policies = ["--policies-directory", str(tmp_path / "policies")]
    return ["envoy-config", "--chains", str(tmp_path / "chains.yaml"), *policies]


def test_the_parts_are_printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--engine", "unix:/run/e.sock", "--metadata-namespace", "ours"]) == 0
    parts = yaml.safe_load(capsys.readouterr().out)
    config = parts["http_filters"][0]["typed_config"]
    assert config["message_timeout"] == "4s"
    assert config["metadata_options"] == {"receiving_namespaces": {"untyped": ["policy_engine", "ours"]}}
    (endpoint,) = parts["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"] == {"pipe": {"path": "/run/e.sock"}}


def test_each_worker_with_an_address_is_an_endpoint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--listen", "unix:/run/e{worker}.sock", "--workers", "2"]) == 0
    cluster = yaml.safe_load(capsys.readouterr().out)["clusters"][0]
    found = [one["endpoint"]["address"] for one in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]]
    assert found == [{"pipe": {"path": "/run/e0.sock"}}, {"pipe": {"path": "/run/e1.sock"}}]


def test_a_host_name_is_looked_up(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--engine", "engine.internal:9002"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["clusters"][0]["type"] == "STRICT_DNS"


def test_findings_of_the_lint_end_with_1_and_come_as_json(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "envoy.yaml"
    assert main([*arguments, "--bootstrap", "--output", str(file)]) == 0
    assert main([*arguments, "--lint", str(file)]) == 0
    file.write_text(file.read_text().replace("message_timeout: 4s", "message_timeout: 1s"))
    capsys.readouterr()
    assert main([*arguments, "--lint", str(file), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["diagnostics"]
    line = file.read_text().splitlines()[found["line"] - 1]
    assert (line.strip(), found["rule"]) == ("message_timeout: 1s", "envoy-message-timeout")


def test_nothing_is_written_for_chains_that_are_not_valid(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chains.yaml").write_text(CHAINS.replace("tested", "testet"))
    assert main([*arguments, "--output", str(tmp_path / "out.yaml")]) == 1
    assert not (tmp_path / "out.yaml").exists()
    assert "did you mean 'tested'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--tls-cert", "/c", "--tls-key", "/k"], "--engine-ca"),
        (["--engine-client-cert", "/c"], "--engine-client-key"),
        (["--engine-name", "engine.internal"], "--engine-ca"),
        (["--engine", "nowhere"], "expected host:port"),
        (["--bootstrap", "--ingress", "unix:/x"], "expected host:port"),
        (["--output", "/nonexistent/x"], "cannot write /nonexistent/x"),
    ],
)
def test_wrong_use_ends_with_2(
    arguments: list[str], wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *wrong]) == 2
    assert said in capsys.readouterr().err
