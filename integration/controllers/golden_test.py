"""What is written for control planes, as it was when it was tried with them; the lint has nothing against it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from policy_engine.cli import main

HERE = Path(__file__).parent
POLICIES = HERE.parent.parent / "policies"
ENGINE = "policy-engine.policy-engine.svc:9002"
TARGETS = {
    "envoy-gateway": ("chains.yaml", "httproute", "envoy_gateway.yaml"),
    "istio": ("chains_istio.yaml", "istio", "istio.yaml"),
    "kgateway": ("chains_kgateway.yaml", "route_name", "kgateway.yaml"),
}


def arguments(target: str, *more: str) -> list[str]:
    chains, source, _ = TARGETS[target]
    settings = ["--chains", str(HERE / chains), "--policies-directory", str(POLICIES), "--route-key-source", source]
    return ["envoy-config", *settings, *more]


@pytest.mark.parametrize("target", TARGETS)
def test_it_is_written_as_it_was(target: str, tmp_path: Path) -> None:
    """After a change, write it again with this command, look at the difference and try it with the controller."""
    file = tmp_path / "out.yaml"
    assert main(arguments(target, "--target", target, "--engine", ENGINE, "--output", str(file))) == 0
    golden = HERE / "golden" / TARGETS[target][2]
    assert file.read_text() == golden.read_text()


@pytest.mark.parametrize("target", ["envoy-gateway", "istio"])
def test_the_lint_has_nothing_against_it(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    golden = HERE / "golden" / TARGETS[target][2]
    assert main(arguments(target, "--lint", str(golden))) == 0
    assert "nothing to report" in capsys.readouterr().out


CHANGES = {
    "envoy-gateway": [
        ("messageTimeout: 2s", "messageTimeout: 500ms", "envoy-message-timeout", "messageTimeout"),
        ("failOpen: false", "failOpen: true", "envoy-failure-mode", "failOpen"),
        ("allowModeOverride: true", "allowModeOverride: false", "envoy-mode-override", "allowModeOverride"),
        ("        - xds.route_metadata\n", "", "envoy-request-attribute", "source.address"),
        ("bufferLimit: 10304Ki", "bufferLimit: 1Mi", "envoy-buffer-limit", "bufferLimit"),
        ("initialStreamWindowSize: 10304Ki", "initialStreamWindowSize: 64Ki", "envoy-buffer-limit", "WindowSize"),
        ("body: FullDuplexStreamed", "body: Buffered", "envoy-processing-mode", "allowModeOverride"),
        ("maxParallelRequests: 100000", "maxParallelRequests: 1024", "envoy-circuit-breaker", "maxParallelRequests"),
    ],
    "istio": [
        ("message_timeout: 2s", "message_timeout: 0.5s", "envoy-message-timeout", "message_timeout"),
        ("failure_mode_allow: false", "failure_mode_allow: true", "envoy-failure-mode", "failure_mode_allow"),
        ("allow_mode_override: true", "allow_mode_override: false", "envoy-mode-override", "allow_mode_override"),
        ("          - xds.route_name\n", "", "envoy-request-attribute", "xds.route_metadata"),
        ("bytes: 10551296", "bytes: 1048576", "envoy-buffer-limit", "per_connection_buffer_limit_bytes"),
        ("response_body_mode: FULL_DUPLEX_STREAMED", "response_body_mode: BUFFERED", "envoy-processing-mode", "BUFF"),
        ("max_outbound_frames: 100000", "max_outbound_frames: 1000", "envoy-flood-limit", "max_outbound_frames"),
    ],
}


@pytest.mark.parametrize(
    ("target", "old", "new", "rule", "at"), [(target, *change) for target, some in CHANGES.items() for change in some]
)
def test_each_change_that_breaks_a_promise_is_found_at_its_line(
    target: str, old: str, new: str, rule: str, at: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (HERE / "golden" / TARGETS[target][2]).read_text()
    assert old in text
    file = tmp_path / "changed.yaml"
    file.write_text(text.replace(old, new))
    main(arguments(target, "--lint", str(file), "--format", "sarif"))
    runs = yaml.safe_load(capsys.readouterr().out)["runs"][0]["results"]
    places = [
        (one["ruleId"], one["locations"][0]["physicalLocation"]["region"]["startLine"])
        for one in runs
        if one["ruleId"] == rule
    ]
    assert places
    lines = file.read_text().splitlines()
    assert any(at in lines[line - 1] for _, line in places), [lines[line - 1] for _, line in places]


def test_a_key_that_the_target_cannot_send_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chains = tmp_path / "chains.yaml"
    chains.write_text((HERE / "chains_kgateway.yaml").read_text())
    flags = ["--chains", str(chains), "--policies-directory", str(POLICIES), "--engine", ENGINE]
    odd = ["--route-key-source", "attribute", "--route-key-key", "xds.virtual_host_name"]
    assert main(["envoy-config", *flags, *odd, "--target", "envoy-gateway"]) == 2
    assert "does not send the attribute" in capsys.readouterr().err
    assert main(["envoy-config", *flags, "--route-key-source", "istio", "--target", "bootstrap"]) == 2
    assert "choose another --target" in capsys.readouterr().err
    chains.write_text((HERE / "chains.yaml").read_text())
    assert main(["envoy-config", *flags, "--target", "kgateway"]) == 2
    assert "cannot tell its routes apart" in capsys.readouterr().err


def test_names_that_count_positions_are_named_above_the_manifests(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--chains", str(HERE / "chains.yaml"), "--policies-directory", str(POLICIES), "--engine", ENGINE]
    assert main(["envoy-config", *flags, "--target", "envoy-gateway"]) == 0
    assert "Names of routes count positions here" in capsys.readouterr().out
