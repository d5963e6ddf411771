"""What Kubernetes' Pod Security Standard `restricted` asks of a pod, and what the engine asks besides, as findings.

A module of its own because rendered charts, kustomize's base and sidecar patches are all held to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def not_restricted(pod: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a pod's spec has that `restricted` refuses (kubernetes.io, "Pod Security Standards")."""
    for name in _HOST:
        if pod.get(name):
            yield f"{name} is set"
    for volume in pod.get("volumes", ()):
        kinds = volume.keys() - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is of a kind that is not allowed: {sorted(kinds)}"
    of_pod = pod.get("securityContext", {})
    for container in [*pod.get("containers", ()), *pod.get("initContainers", ())]:
        own = container.get("securityContext", {})
        name = container["name"]
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"{name}: allowPrivilegeEscalation is not false"
        if not own.get("runAsNonRoot", of_pod.get("runAsNonRoot")):
            yield f"{name}: runAsNonRoot is not true"
        if own.get("runAsUser", of_pod.get("runAsUser")) == 0:
            yield f"{name}: runAsUser is 0"
        seccomp = own.get("seccompProfile", of_pod.get("seccompProfile", {})).get("type")
        if seccomp not in ("RuntimeDefault", "Localhost"):
            yield f"{name}: seccompProfile is {seccomp}"
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
            yield f"{name}: capabilities are not all dropped"
        if any(port.get("hostPort") for port in container.get("ports", ())):
            yield f"{name}: hostPort is set"


def not_careful(container: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the engine's container lacks of what keeps it from harm, and others from harm by it."""
    if not container["securityContext"].get("readOnlyRootFilesystem"):
        yield "its file system can be written"
    needed = {"requests": {"cpu", "memory", "ephemeral-storage"}, "limits": {"memory", "ephemeral-storage"}}
    for kind, wanted in needed.items():
        missing = wanted - container["resources"].get(kind, {}).keys()
        if missing:
            yield f"resources.{kind} lacks {sorted(missing)}"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe not in container:
            yield f"there is no {probe}"
    if container.get("livenessProbe", {}).get("httpGet", {}).get("path") != "/livez":
        yield "the livenessProbe does not ask /livez: a pod that is not ready would be killed"
    if not any(mount["mountPath"] == "/tmp" for mount in container.get("volumeMounts", ())):  # noqa: S108 - a path in a pod, nothing is written here
        yield "/tmp cannot be written"  # noqa: S108 - a path in a pod, nothing is written here
