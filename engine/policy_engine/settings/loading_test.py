from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from policy_engine.settings.loading import (
    SettingsError,
    add_flags,
    known_settings,
    load_settings,
    render_settings,
    sample_file,
    service_links,
)
from policy_engine.settings.model import (
    ConfigurationSource,
    LogLevel,
    RouteKeySource,
    Settings,
    Transport,
    UnmappedRoutes,
)

REPOSITORY = Path(__file__).parents[3]


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None, *flags: str) -> Settings:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return load_settings(path, environ or {}, parser.parse_args(flags))


def errors(tmp_path: Path, text: str, environ: dict[str, str] | None = None, *flags: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, environ, *flags)
    return [str(one).replace(f"{tmp_path}/", "") for one in caught.value.diagnostics]


def test_flags_before_environment_before_file_before_default(tmp_path: Path) -> None:
    text = "body_limit: 1MiB\npolicy_timeout: 2s\nlog:\n  level: debug\n"
    environ = {"POLICY_ENGINE_POLICY_TIMEOUT": "3s", "POLICY_ENGINE_LOG_LEVEL": "warning"}
    settings = load(tmp_path, text, environ, "--log-level", "error")
    assert settings.body_limit == 1 << 20
    assert settings.policy_timeout == 3.0
    assert settings.log.level is LogLevel.ERROR
    assert settings.drain_timeout == 30.0
    assert settings.origins["body_limit"] == f"{tmp_path}/settings.yaml:1"
    assert settings.origins["policy_timeout"] == "environment variable POLICY_ENGINE_POLICY_TIMEOUT"
    assert settings.origins["log.level"] == "flag --log-level"
    assert settings.origins["drain_timeout"] == "default"


EXAMPLES: dict[str, tuple[str, Any]] = {
    "listen": ("0.0.0.0:1,[::1]:2,unix:/run/x.sock", ("0.0.0.0:1", "[::1]:2", "unix:/run/x.sock")),
    "transport": ("native", Transport.NATIVE),
    "workers": ("3", 3),
    "configuration": ("xds", ConfigurationSource.XDS),
    "chains": ("/c", Path("/c")),
    "unmapped_routes": ("pass", UnmappedRoutes.PASS),
    "body_limit": ("64KiB", 65536),
    "policy_timeout": ("250ms", 0.25),
    "construction_timeout": ("30s", 30.0),
    "drain_timeout": ("0s", 0.0),
    "tls.cert": ("/cert", Path("/cert")),
    "tls.key": ("/key", Path("/key")),
    "tls.client_ca": ("/ca", Path("/ca")),
    "policies.registry": ("/r.json", Path("/r.json")),
    "xds.server": ("localhost:18000", "localhost:18000"),
    "xds.node_id": ("engine-1", "engine-1"),
    "xds.delta": ("false", False),
    "xds.last_known_good": ("/lkg", Path("/lkg")),
    "xds.tls.ca": ("/xca", Path("/xca")),
    "xds.tls.cert": ("/xcert", Path("/xcert")),
    "xds.tls.key": ("/xkey", Path("/xkey")),
    "route_key.source": ("metadata", RouteKeySource.METADATA),
    "route_key.namespace": ("acme", "acme"),
    "route_key.key": ("chain", "chain"),
    "secrets.directories": ("/s,/t", (Path("/s"), Path("/t"))),
    "admin.listen": ("off", None),
    "health.listen": ("0.0.0.0:8080", "0.0.0.0:8080"),
    "log.level": ("error", LogLevel.ERROR),
    "tracing.endpoint": ("http://collector:4318", "http://collector:4318"),
    "tracing.sample_ratio": ("0.25", 0.25),
    "tracing.service_name": ("edge", "edge"),
    "limits.streams": ("5", 5),
    "limits.header_count": ("5", 5),
    "limits.header_size": ("64KiB", 65536),
}


def value_of(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("source", ["file", "environment", "flags"])
def test_every_setting_can_come_from_every_source(tmp_path: Path, source: str) -> None:
    lines, environ, flags = [], {}, []
    written: dict[str, Any] = {}
    for known in known_settings():
        if known.name in EXAMPLES:
            text = EXAMPLES[known.name][0]
            *sections, key = known.name.split(".")
            place = written
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = text
            environ[known.variable] = text
            flags += [known.flag, text]
    lines.append(json.dumps(written))
    if source == "file":
        settings = load(tmp_path, "\n".join(lines))
    elif source == "environment":
        settings = load(tmp_path, "", environ)
    else:
        settings = load(tmp_path, "", {}, *flags)
    for name, (_, expected) in EXAMPLES.items():
        assert value_of(settings, name) == expected, name
        assert source.removesuffix("s")[:4] in settings.origins[name] or source == "file"


def test_lists_and_numbers_may_be_written_as_yaml_has_them(tmp_path: Path) -> None:
    settings = load(
        tmp_path, "listen: ['127.0.0.1:1', 'unix:/a']\nworkers: 2\nbody_limit: 1000\nxds: {delta: false}\ntls:\n"
    )
    assert settings.listen == ("127.0.0.1:1", "unix:/a")
    assert (settings.workers, settings.body_limit, settings.xds.delta) == (2, 1000, False)
    settings = load(tmp_path, "", {}, "--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2")
    assert settings.listen == ("127.0.0.1:1", "127.0.0.1:2")


def test_relative_paths_of_the_file_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "chains: sub/c.yaml\nsecrets: {directories: [a, /b]}\n",
        {"POLICY_ENGINE_TLS_CERT": "c", "POLICY_ENGINE_TLS_KEY": "k"},
    )
    assert settings.chains == tmp_path / "sub/c.yaml"
    assert settings.secrets.directories == (tmp_path / "a", Path("/b"))
    assert settings.tls.cert == Path("c")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("lisen: x", "settings.yaml:1:1: /lisen: 'lisen' is not a setting; did you mean 'listen'?"),
        ("level: debug", "'level' is not a setting; did you mean 'log.level'?"),
        ("log: debug", "settings.yaml:1:6: /log: 'log' is a group of settings and must be an object; allowed: level, format"),
        ("log: {levl: debug}", "/log/levl: 'log.levl' is not a setting; did you mean 'level'?; allowed: level, format"),
        ("workers: 0", '/workers: is out of range (got "0"); allowed: a whole number from 1 to 1024, or auto'),
        ("workers: many", "/workers: is not a whole number"),
        ("workers: -1", "/workers: is not a whole number"),
        ("body_limit: 10MB and more", "/body_limit: is not a size"),
        ("body_limit: 2GiB", "/body_limit: is out of range"),
        ("tracing: {endpoint: 'collector:4318'}", "/tracing/endpoint: is not http://host:port or https://host:port"),
        ("tracing: {endpoint: 'http://collector'}", "/tracing/endpoint: is not host:port"),
        ("tracing: {sample_ratio: 2}", "/tracing/sample_ratio: is out of range"),
        ("tracing: {sample_ratio: half}", "/tracing/sample_ratio: is not a number from 0 to 1"),
        ("policy_timeout: 5", '/policy_timeout: has no unit (got "5"); allowed: a duration such as 500ms'),
        ("route_key: {source: metadata, namespace: a'b, key: k}", "/route_key/namespace: is not valid"),
        ("policy_timeout: 0s", "/policy_timeout: is out of range"),
        ("transport: grpc", '/transport: is not one of the values allowed (got "grpc"); allowed: native, grpcio'),
        ("listen: 127.0.0.1", "/listen: is not host:port"),
        ("listen: ::1:80", "/listen: is an IPv6 address without brackets"),
        ("listen: 127.0.0.1:99999", "/listen: is not host:port"),
        ("listen: unix:relative", "/listen: is not an absolute socket path"),
        ("listen: ['127.0.0.1:1', '127.0.0.1:1']", "/listen: names an address twice"),
        ("listen: {a: b}", "/listen: must not be an object"),
        ("admin: {listen: '0.0.0.0:1'}", "/admin/listen: is not a loopback address"),
        ("admin: {listen: 'example.com:1'}", "/admin/listen: is not valid"),
        ("xds: {delta: on}", '/xds/delta: is not a boolean (got "on"); allowed: true, false'),
        ("configuration: xds", "/xds/server: xds.server is not set, but configuration is xds"),
        ("tls: {cert: a}", "/tls/key: tls.key is not set, but tls.cert is"),
        ("tls: {client_ca: a}", "/tls/cert: tls.cert is not set, but tls.client_ca is"),
        ("route_key: {source: metadata, key: a}", "/route_key/namespace: route_key.namespace is not set"),
        ("policies: {registry: a, directory: b}", "/policies/directory: policies.directory is set together with"),
        ("[]", "the settings file must be an object, not a list"),
        ("a: [", "not valid YAML"),
        ("workers: 1\nworkers: 2", "second time"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_place(tmp_path: Path, text: str, error: str) -> None:
    found = errors(tmp_path, text)
    assert len(found) == 1, found
    assert error in found[0]


def test_mistakes_of_all_sources_at_once(tmp_path: Path) -> None:
    found = errors(
        tmp_path, "workers: x", {"POLICY_ENGINE_WORKRS": "1", "POLICY_ENGINE_BODY_LIMIT": "x"}, "--transport", "x"
    )
    assert sorted(one.partition(":")[0] for one in found) == [
        "environment variable POLICY_ENGINE_BODY_LIMIT",
        "environment variable POLICY_ENGINE_WORKRS",
        "flag --transport",
        "settings.yaml",
    ]
    assert "did you mean 'POLICY_ENGINE_WORKERS'?" in "".join(found)


def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_mistake(tmp_path: Path) -> None:
    environ = {
        "POLICY_ENGINE_SERVICE_HOST": "10.0.0.1",
        "POLICY_ENGINE_SERVICE_PORT_GRPC": "9002",
        "POLICY_ENGINE_PORT": "tcp://10.0.0.1:9002",
        "POLICY_ENGINE_PORT_9002_TCP_ADDR": "10.0.0.1",
        "POLICY_ENGINE_CONFIG": "/etc/policy-engine/policy-engine.yaml",
    }
    assert load(tmp_path, "", environ) == Settings()


@pytest.mark.parametrize("service", ["METRICS", "XDS_SERVER", "2", "ADMIN"])
def test_what_kubernetes_sets_for_services_whose_names_begin_as_ours_is_ignored_and_known(
    tmp_path: Path, service: str
) -> None:
    name = f"POLICY_ENGINE_{service}"
    environ = {
        f"{name}_SERVICE_HOST": "fd00::1",
        f"{name}_SERVICE_PORT": "9001",
        f"{name}_SERVICE_PORT_GRPC": "9001",
        f"{name}_PORT": "tcp://[fd00::1]:9001",
        f"{name}_PORT_9001_TCP": "tcp://[fd00::1]:9001",
        f"{name}_PORT_9001_TCP_PROTO": "tcp",
        f"{name}_PORT_9001_TCP_PORT": "9001",
        f"{name}_PORT_9001_TCP_ADDR": "fd00::1",
        f"{name}_PORT_53_UDP_ADDR": "fd00::1",
    }
    assert load(tmp_path, "", environ) == Settings()
    assert service_links(environ | {"PATH": "/bin", "POLICY_ENGINE_WORKERS": "2"}) == tuple(sorted(environ))


@pytest.mark.parametrize(
    ("variable", "value", "meant"),
    [
        ("POLICY_ENGINE_TRACING_SERVICE_NAM", "x", "POLICY_ENGINE_TRACING_SERVICE_NAME"),
        ("POLICY_ENGINE_TRANSPOR", "native", "POLICY_ENGINE_TRANSPORT"),
        ("POLICY_ENGINE_ADMIN_PORT", "9003", ""),
        ("POLICY_ENGINE_PORT", "9002", ""),
        ("POLICY_ENGINE_SERVICE_HOSTS", "10.0.0.1", ""),
    ],
)
def test_a_variable_that_only_looks_like_a_link_is_a_mistake(
    tmp_path: Path, variable: str, value: str, meant: str
) -> None:
    with pytest.raises(SettingsError, match="is not the variable of a setting") as caught:
        load(tmp_path, "", {variable: value})
    assert f"did you mean '{meant}'" in str(caught.value) or not meant


def test_a_missing_file_is_a_mistake_and_no_file_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the settings file cannot be read"):
        load_settings(tmp_path / "absent.yaml", {})
    assert load_settings(None, {}) == Settings()


def test_show_prints_value_and_origin(tmp_path: Path) -> None:
    settings = load(tmp_path, "body_limit: 5MiB", {}, "--workers", "2")
    lines = {line.split()[0]: line for line in render_settings(settings).splitlines()}
    assert len(lines) == len(known_settings())
    assert lines["body_limit"].split()[1] == "5MiB"
    assert lines["body_limit"].endswith("settings.yaml:1")
    assert lines["workers"].endswith("flag --workers")
    document = json.loads(render_settings(settings, json=True))
    assert document["workers"] == {"value": "2", "origin": "flag --workers"}


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    shown = json.loads(render_settings(Settings(), json=True))
    environ = {known.variable: shown[known.name]["value"] for known in known_settings() if shown[known.name]["value"]}
    assert load(tmp_path, "", environ) == Settings()


@pytest.mark.parametrize(
    ("endpoint", "outcome"),
    [
        ("http://collector:4318", "http://collector:4318"),
        ("http://collector:4318/", "http://collector:4318"),
        ("https://collector.example:443/otlp/v2", "https://collector.example:443/otlp/v2"),
        ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
        ("http://collector:4317", "port for OTLP over gRPC"),
        ("https://[::1]:4317/base", "port for OTLP over gRPC"),
        ("http://collector:4318/a?token=x", "odd characters"),
        ("http://collector", "allowed: http://host:port"),
        ("grpc://collector:4317", "allowed: http://host:port"),
    ],
)
def test_where_spans_go(endpoint: str, outcome: str) -> None:
    environ = {"POLICY_ENGINE_TRACING_ENDPOINT": endpoint}
    if outcome.startswith("http"):
        assert load_settings(None, environ).tracing.endpoint == outcome
    else:
        with pytest.raises(SettingsError, match=outcome):
            load_settings(None, environ)


def test_the_sample_file_is_complete_valid_and_up_to_date(tmp_path: Path) -> None:
    assert load(tmp_path, sample_file()) == Settings()
    with_values = "\n".join(
        line.replace("# ", "", 1)
        if line.strip().startswith("# ") and ": " in line and line.split(": ")[0].split()[-1] in KEYS
        else line
        for line in sample_file().splitlines()
    )
    assert load(tmp_path, with_values) == Settings()
    assert (REPOSITORY / "configs" / "policy-engine.yaml").read_text() == sample_file()


KEYS = {known.name.rpartition(".")[2] for known in known_settings()}


def test_defaults_of_an_image_give_way_to_everything_an_operator_writes(tmp_path: Path) -> None:
    image = {"POLICY_ENGINE_DEFAULT_LISTEN": "0.0.0.0:9002", "POLICY_ENGINE_DEFAULT_WORKERS": "3"}
    settings = load_settings(None, image, None)
    assert (settings.listen, settings.workers) == (("0.0.0.0:9002",), 3)
    assert "POLICY_ENGINE_DEFAULT_LISTEN" in settings.origins["listen"]
    file = tmp_path / "policy-engine.yaml"
    file.write_text("listen: [127.0.0.1:1]\n")
    assert load_settings(file, image, None).listen == ("127.0.0.1:1",)
    with pytest.raises(SettingsError, match="POLICY_ENGINE_DEFAULT_LISTN"):
        load_settings(None, {"POLICY_ENGINE_DEFAULT_LISTN": "x"}, None)


@pytest.mark.parametrize(
    ("written", "ratio"), [("0.01", 0.01), ("0", 0), ("1", 1), ("1.0", 1), ("0.00001", 0.00001), ("'0.5'", 0.5)]
)
def test_a_ratio_is_written_as_a_number(tmp_path: Path, written: str, ratio: float) -> None:
    for section in ("tracing", "decision_log"):
        settings = load(tmp_path, f"{section}: {{sample_ratio: {written}}}")
        assert getattr(settings, section).sample_ratio == ratio


@pytest.mark.parametrize(
    "line", ["workers: 2.0", "body_limit: 1.5", "tracing: {sample_ratio: 1.5}", "drain_timeout: .inf"]
)
def test_a_number_with_a_point_is_taken_where_one_fits_alone(tmp_path: Path, line: str) -> None:
    assert errors(tmp_path, line)


def test_a_decision_log_needs_its_collector(tmp_path: Path) -> None:
    assert "decision_log.endpoint" in "".join(
        errors(tmp_path, "decision_log: {output: otlp}")
    ) or "/decision_log" in "".join(errors(tmp_path, "decision_log: {output: otlp}"))
    assert errors(tmp_path, "decision_log: {output: relative/path}")
    assert load(tmp_path, "decision_log: {output: /var/log/d.jsonl}").decision_log.output == "/var/log/d.jsonl"
