"""The end-to-end cases with Envoy's image and the policy image as containers, joined by TCP on the host's network."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from integration.end_to_end import ROUTES, EndToEnd, document, jwt_parameters
from integration.harness.certificates import CertificateAuthority
from integration.harness.chain_file import ChainFile
from integration.harness.client import send
from integration.harness.containers import Container, Image, Mount
from integration.harness.engine import EngineAdmin, settings
from integration.harness.envoy import ARGUMENTS, Envoy, admin_port_from, is_ready, write_bootstrap
from integration.harness.envoy_config import Bootstrap
from integration.harness.jwks import JwksServer
from integration.harness.processes import free_port
from integration.harness.stack import Stack
from integration.harness.tokens import Issuer
from integration.harness.upstream import Upstream

CONFIGURATION = "/etc/policy-engine"


@pytest.fixture(scope="module")
def policy_image() -> Image:
    return Image.read(_tarball("POLICY_IMAGE", "//:image.tar"))


@pytest.fixture(scope="module")
def envoy_image() -> Image:
    return Image.read(_tarball("ENVOY_IMAGE", "//integration:envoy_image.tar"))


def _tarball(variable: str, target: str) -> Path:
    path = os.environ.get(variable)
    assert path, f"{variable} is not set: the path of the image tarball (./bazelw build {target})"
    return Path(path).absolute()


@pytest.fixture(scope="module")
def running(policy_image: Image, envoy_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    issuer, authority = Issuer(), CertificateAuthority.create()
    directory = tmp_path_factory.mktemp("containers")
    configuration = _directory(directory / "policy-engine", mode=0o755)
    (configuration / "ca.pem").write_bytes(authority.certificate_pem)
    with JwksServer(issuer, authority, directory) as jwks, Upstream() as upstream:
        chains = ChainFile(configuration / "chains.yaml")
        chains.write(document(jwt_parameters(jwks.url, f"{CONFIGURATION}/ca.pem")))
        listen, admin = free_port(), EngineAdmin(free_port())
        own = settings(listen=f"127.0.0.1:{listen}", admin_port=admin.port, chains=f"{CONFIGURATION}/chains.yaml")
        (configuration / "policy-engine.yaml").write_text(yaml.safe_dump(own))
        with Container(
            "policy-engine",
            policy_image,
            log_path=directory / "engine.log",
            # The image's environment sets the two addresses, and environment goes before file.
            command=[
                f"--config={CONFIGURATION}/policy-engine.yaml",
                f"--listen={own['listen'][0]}",
                "--health-listen=off",
            ],
            mounts=[Mount(configuration, CONFIGURATION)],
        ) as engine:
            engine.wait_until(admin.is_ready, what="ready")
            bootstrap = Bootstrap(routes=ROUTES, engine=listen, upstream_port=upstream.port)
            with _envoy(envoy_image, bootstrap, directory) as (proxy, envoy):
                yield Stack(
                    envoy=envoy,
                    proxy=proxy,
                    engine=engine,
                    admin=admin,
                    upstream=upstream,
                    issuer=issuer,
                    jwks=jwks,
                    chains=chains,
                )


@contextmanager
def _envoy(image: Image, bootstrap: Bootstrap, directory: Path) -> Iterator[tuple[Container, Envoy]]:
    """Start Envoy's container; it tells the port that it chose for its admin pages in a file of a shared directory."""
    configuration, shared = _directory(directory / "envoy", mode=0o755), _directory(directory / "shared", mode=0o777)
    write_bootstrap(bootstrap, configuration)
    command = ["-c", "/etc/envoy/envoy.yaml", "--admin-address-path", "/run/envoy/admin", *ARGUMENTS]
    mounts = [Mount(configuration, "/etc/envoy"), Mount(shared, "/run/envoy", writable=True)]
    with Container("envoy", image, log_path=directory / "envoy.log", command=command, mounts=mounts) as proxy:
        proxy.wait_until(lambda: is_ready(admin_port_from(shared / "admin")), what="ready")
        port = admin_port_from(shared / "admin")
        assert port is not None
        yield proxy, Envoy(port)


def _directory(path: Path, *, mode: int) -> Path:
    """Make a directory that the user of a container can use; `mkdir` heeds the umask, `chmod` does not."""
    path.mkdir()
    path.chmod(mode)
    return path


def _said(image: Image, directory: Path, *command: str) -> str:
    """Return what a container that runs `command` instead of the engine says until it ends."""
    alone = replace(image, entrypoint=command)
    with Container("once", alone, log_path=directory / "once.log", command=()) as container:
        assert container.wait(timeout_s=60) == 0, container.log()
        return container.log()


def test_authorities_of_the_image_are_trusted_where_a_policy_names_none(policy_image: Image, tmp_path: Path) -> None:
    code = "from policy_http import tls_context; print(len(tls_context(None).get_ca_certs()))"
    assert int(_said(policy_image, tmp_path, "/usr/bin/python3", "-IB", "-c", code)) > 100


def test_nothing_is_compiled_when_the_engine_starts(policy_image: Image, tmp_path: Path) -> None:
    code = "import policy_engine.processes.supervisor, policy_engine.processes.serving"
    log = _said(policy_image, tmp_path, "/usr/bin/python3", "-IB", "-v", "-c", code)
    assert len(re.findall(r"^# code object from '/\S+\.pyc'$", log, re.MULTILINE)) > 300
    compiled = re.findall(r"^# code object from '?(/\S+\.py)'?$", log, re.MULTILINE)
    assert compiled == []


def test_build_information_names_policies_and_dependencies(policy_image: Image, tmp_path: Path) -> None:
    info = json.loads(_said(policy_image, tmp_path, "/usr/local/bin/policy-engine", "--build-info"))
    labels = dict(policy_image.labels)
    assert info["engine"] == labels["policy-engine.version"]
    assert len(info["policies"]) > 3
    for policy in info["policies"]:
        assert policy["digest"] == labels[f"policy-engine.policy.{policy['name']}.{policy['version']}"]
    dependencies = {one["name"]: one for one in info["dependencies"]}
    assert dependencies["PyJWT"]["licence"] == "MIT"
    assert {"jwt-validation v1.0.0", "jwt-validation v2.0.0"} <= set(dependencies["PyJWT"]["required_by"])
    assert "engine" in dependencies["protobuf"]["required_by"]
    assert re.match(r"3\.13\.", info["debian"]["packages"]["python3.13-minimal"])


class TestContainers(EndToEnd):
    """All cases, and what only an image has."""

    def test_images_run_as_an_ordinary_user(self, policy_image: Image, envoy_image: Image) -> None:
        assert (policy_image.user, envoy_image.user) == ("65532:65532", "65532:65532")

    def test_labels_list_the_policies_with_their_digests(self, policy_image: Image) -> None:
        labels = dict(policy_image.labels)
        for name in (
            "set-header.v1.0.0",
            "api-key-validation.v1.0.0",
            "jwt-validation.v1.0.0",
            "jwt-validation.v2.0.0",
        ):
            assert labels[f"policy-engine.policy.{name}"].startswith("sha256:")

    def test_admin_pages_tell_the_dependencies_with_their_licences(self, stack: Stack) -> None:
        dependencies = {one["name"]: one for one in stack.admin.document("/build-info")["dependencies"]}
        assert "engine" in dependencies["protobuf"]["required_by"]
        page = re.sub(r' data-head="\w+"', "", send(stack.admin.port, "GET", "/").body.decode())
        assert f"<td>PyJWT</td><td>{dependencies['PyJWT']['version']}</td><td>MIT</td>" in page
