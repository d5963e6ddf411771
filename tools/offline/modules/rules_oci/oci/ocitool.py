"""Builds, describes, packs and pushes an OCI image layout; what rules_oci does with its own toolchains.

Commands:

    ocitool.py build OUT CONFIG.json [--labels FILE] [--env FILE] LAYER.tar…
    ocitool.py digest LAYOUT OUT
    ocitool.py tarball LAYOUT OUT TAGS-FILE
    ocitool.py push LAYOUT --repository HOST/NAME [--tag TAG]… [--tags-file FILE] [--insecure]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

EPOCH = "1970-01-01T00:00:00Z"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MEDIA_TYPE = "application/vnd.oci.image.{}+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def canonical(value: Any) -> bytes:
    """Return JSON whose bytes depend on nothing but `value`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest_of(data: bytes) -> str:
    """Return the OCI digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob(layout: Path, digest: str) -> Path:
    """Return where `layout` keeps the content with `digest`."""
    return layout / "blobs" / digest.replace(":", "/")


def put(layout: Path, media_type: str, data: bytes) -> dict[str, Any]:
    """Store `data` and return its descriptor."""
    path = blob(layout, digest_of(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def manifest(layout: Path) -> tuple[dict[str, Any], bytes]:
    """Return the descriptor and the bytes of the one manifest in `layout`."""
    (descriptor,) = json.loads((layout / "index.json").read_text())["manifests"]
    return descriptor, blob(layout, descriptor["digest"]).read_bytes()


def pairs(files: list[Path]) -> dict[str, str]:
    """Read files of `key=value` lines."""
    lines = [line for file in files for line in file.read_text().splitlines() if line]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def build(options: argparse.Namespace) -> None:
    """Write an OCI layout of the layers and the configuration."""
    given = json.loads(options.config.read_text())
    layers = [put(options.out, LAYER_TYPE, tar.read_bytes()) for tar in options.layers]
    config: dict[str, Any] = {
        "Env": [f"{key}={value}" for key, value in ({"PATH": PATH} | pairs(options.env)).items()],
        "Labels": pairs(options.labels),
        "Entrypoint": given["entrypoint"],
        "Cmd": given["cmd"],
        "User": given["user"],
        "WorkingDir": given["workdir"],
        "ExposedPorts": {port: {} for port in given["exposed_ports"]},
    }
    image = {
        "created": EPOCH,
        "os": given["os"],
        "architecture": given["architecture"],
        "config": {key: value for key, value in config.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        "history": [{"created": EPOCH, "created_by": f"bazel build {tar.name}"} for tar in options.layers],
    }
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE.format("manifest.v1"),
        "config": put(options.out, MEDIA_TYPE.format("config.v1"), canonical(image)),
        "layers": layers,
    }
    index = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE.format("index.v1"),
        "manifests": [put(options.out, document["mediaType"], canonical(document))],
    }
    (options.out / "index.json").write_bytes(canonical(index))
    (options.out / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def digest(options: argparse.Namespace) -> None:
    """Write the digest of the image's manifest."""
    options.out.write_text(manifest(options.layout)[0]["digest"] + "\n")


def tarball(options: argparse.Namespace) -> None:
    """Write the tar that `docker load` and `podman load` read."""
    document = json.loads(manifest(options.layout)[1])
    digests = [document["config"]["digest"], *(layer["digest"] for layer in document["layers"])]

    def name(digest: str) -> str:
        return str(blob(Path(), digest))

    listing = {"Config": name(digests[0]), "RepoTags": options.tags.read_text().split(), "Layers": []}
    listing["Layers"] = [name(digest) for digest in digests[1:]]
    with tarfile.open(options.out, "w", format=tarfile.GNU_FORMAT) as tar:
        for path, data in [
            *((name(digest), blob(options.layout, digest).read_bytes()) for digest in sorted(set(digests))),
            ("manifest.json", canonical([listing])),
        ]:
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))


class Registry:
    """The push half of the OCI distribution protocol, with basic or token authentication from docker's config.json."""

    def __init__(self, repository: str, insecure: bool) -> None:
        self.host, _, self.name = repository.partition("/")
        if not self.name:
            raise SystemExit(f"--repository is HOST/NAME, not {repository!r}")
        local = self.host.split(":")[0] in ("localhost", "127.0.0.1")
        self.root = f"{'http' if local or insecure else 'https'}://{self.host}"
        self.authorization = self._basic()

    def _basic(self) -> str | None:
        directory = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker"))
        try:
            logins = json.loads((directory / "config.json").read_text()).get("auths", {})
        except FileNotFoundError:
            return None
        auth = logins.get(self.host, {}).get("auth")
        return f"Basic {auth}" if auth else None

    def _token(self, challenge: str) -> str:
        """Fetch the bearer token that the `WWW-Authenticate` header asks for."""
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = fields.pop("realm")
        request = urllib.request.Request(f"{realm}?{urllib.parse.urlencode(fields)}")
        if self.authorization:
            request.add_header("Authorization", self.authorization)
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
        return f"Bearer {answer.get('token') or answer['access_token']}"

    def call(self, method: str, url: str, data: bytes | None = None, kind: str = "application/octet-stream") -> Any:
        """Send one request and return its response, or None for 404 to a HEAD."""
        url = urllib.parse.urljoin(f"{self.root}/v2/{self.name}/", url)
        for attempt in (1, 2):
            request = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
            if self.authorization:
                request.add_header("Authorization", self.authorization)
            try:
                return urllib.request.urlopen(request)
            except urllib.error.HTTPError as error:
                challenge = error.headers.get("WWW-Authenticate", "")
                if error.code == 401 and attempt == 1 and challenge.lower().startswith("bearer"):
                    self.authorization = self._token(challenge)
                elif error.code == 404 and method == "HEAD":
                    return None
                else:
                    reason = error.read(2000).decode(errors="replace")
                    raise SystemExit(f"{method} {url}: {error.code} {reason}") from error
        return None

    def upload(self, digest: str, data: bytes) -> None:
        """Store a blob unless the registry has it."""
        if self.call("HEAD", f"blobs/{digest}"):
            return
        location = self.call("POST", "blobs/uploads/", b"").headers["Location"]
        self.call("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", data)


def push(options: argparse.Namespace) -> None:
    """Push blobs, then the manifest by digest, then every tag."""
    registry = Registry(options.repository, options.insecure)
    descriptor, raw = manifest(options.layout)
    document = json.loads(raw)
    for part in [*document["layers"], document["config"]]:
        registry.upload(part["digest"], blob(options.layout, part["digest"]).read_bytes())
    tags = [*options.tag, *(tag for file in options.tags_file for tag in file.read_text().split())]
    for reference in [descriptor["digest"], *tags]:
        registry.call("PUT", f"manifests/{reference}", raw, descriptor["mediaType"])
    print(f"{options.repository}@{descriptor['digest']}", *tags)


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("build")
    command.set_defaults(run=build)
    command.add_argument("out", type=Path)
    command.add_argument("config", type=Path)
    command.add_argument("--labels", type=Path, action="append", default=[])
    command.add_argument("--env", type=Path, action="append", default=[])
    command.add_argument("layers", type=Path, nargs="*")
    command = commands.add_parser("digest")
    command.set_defaults(run=digest)
    command.add_argument("layout", type=Path)
    command.add_argument("out", type=Path)
    command = commands.add_parser("tarball")
    command.set_defaults(run=tarball)
    command.add_argument("layout", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("tags", type=Path)
    command = commands.add_parser("push")
    command.set_defaults(run=push)
    command.add_argument("layout", type=Path)
    command.add_argument("-r", "--repository", required=True)
    command.add_argument("-t", "--tag", action="append", default=[])
    command.add_argument("--tags-file", type=Path, action="append", default=[])
    command.add_argument("--insecure", action="store_true", help="plain HTTP to a host that is not this machine")
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
