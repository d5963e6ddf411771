"""Runs the API of Kubernetes on this machine: etcd, kube-apiserver and kubectl, no node and no controllers."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from integration.controllers.attached import Manifest, yaml_of
from integration.harness.processes import Process, accepts, free_port
from tools.on_demand.go_programs import go_program

_TOKEN = "only-for-this-test"
_SECONDS = 120


class Refused(AssertionError):
    """The API refused something; the message is what kubectl printed."""


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """A running API; `config` is the path of a kubeconfig whose user may do everything."""

    config: Path

    def kubectl(self, *arguments: str | Path, given: str = "") -> str:
        """Return what kubectl prints, `given` as its input; raises Refused when it fails."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.config.parent)}
        done = subprocess.run(
            [go_program("kubectl"), "--kubeconfig", self.config, *arguments],
            input=given,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise Refused(done.stderr or done.stdout)
        return done.stdout + done.stderr

    def apply(self, *manifests: Manifest, namespace: str = "default") -> str:
        """Apply manifests on the server's side, unknown fields refused, and return what is said about them."""
        return self.apply_text(yaml_of(manifests), namespace)

    def apply_text(self, text: str, namespace: str = "default") -> str:
        """Apply manifests in the form of YAML, as `apply` does."""
        server_side = ("apply", "--server-side", "--dry-run=none", "--validate=strict", "--filename", "-")
        return self.kubectl("--namespace", namespace, *server_side, given=text)

    def install(self, files: Iterable[Path]) -> None:
        """Apply files with custom resource definitions and wait until their kinds are served."""
        self.apply_text("---\n".join(file.read_text("utf-8") for file in files))
        self.kubectl("wait", "--for=condition=Established", "customresourcedefinitions", "--all", "--timeout=60s")


@contextlib.contextmanager
def kubernetes(directory: Path) -> Iterator[Kubernetes]:
    """Start the API with all of its files in `directory`, admission of pods by their security included."""
    client_port, peer_port, port = free_port(), free_port(), free_port()
    address = f"http://127.0.0.1:{client_port}"
    etcd: list[str | Path] = [
        *(go_program("etcd"), "--data-dir", directory / "etcd", "--unsafe-no-fsync"),
        *("--listen-client-urls", address, "--advertise-client-urls", address),
        *("--listen-peer-urls", f"http://127.0.0.1:{peer_port}"),
    ]
    with Process("etcd", etcd, log_path=directory / "etcd.log", env=_environment()) as store:
        store.wait_until(lambda: accepts(client_port), what="listening")
        with Process(
            "kube-apiserver",
            [go_program("kube-apiserver"), *_options(directory, port, address)],
            log_path=directory / "kube-apiserver.log",
            env=_environment(),
        ) as server:
            server.wait_until(lambda: accepts(port), what="listening", timeout_s=_SECONDS)
            found = Kubernetes(_kubeconfig(directory, port))
            server.wait_until(lambda: _is_ready(found), what="ready", timeout_s=_SECONDS)
            yield found


def _options(directory: Path, port: int, etcd: str) -> list[str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    private, public = directory / "service-accounts.key", directory / "service-accounts.pub"
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    tokens = directory / "tokens.csv"
    tokens.write_text(f'{_TOKEN},admin,admin,"system:masters"\n', "utf-8")
    return [
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={directory / 'certificates'}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={private}",
        f"--service-account-key-file={public}",
        "--service-cluster-ip-range=10.96.0.0/16",
    ]


def _kubeconfig(directory: Path, port: int) -> Path:
    file = directory / "kubeconfig"
    # The server's own certificate is followed by that of the authority that it made for it.
    cluster = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority": str(directory / "certificates" / "apiserver.crt"),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": _TOKEN}}],
    }
    file.write_text(yaml.safe_dump(content), "utf-8")
    return file


def _is_ready(server: Kubernetes) -> bool:
    try:
        return "ok" in server.kubectl("get", "--raw", "/readyz")
    except Refused:
        return False


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath)}
