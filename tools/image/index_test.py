"""An index has an image of each platform, made of what that platform chose (`image_index` in builder/defs.bzl)."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

INDEX = Path("tools/image/probe.index")


def blob(descriptor: dict[str, Any]) -> bytes:
    return (INDEX / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()


def test_each_platform_has_its_own_image() -> None:
    (top,) = json.loads((INDEX / "index.json").read_bytes())["manifests"]
    contents = {}
    for descriptor in json.loads(blob(top))["manifests"]:
        manifest = json.loads(blob(descriptor))
        config = json.loads(blob(manifest["config"]))
        platform = descriptor["platform"]
        assert (config["os"], config["architecture"]) == (platform["os"], platform["architecture"])
        (layer,) = manifest["layers"]
        with tarfile.open(fileobj=io.BytesIO(blob(layer))) as tar:
            file = tar.extractfile("platform")
            assert file is not None
            contents[f"{platform['os']}/{platform['architecture']}"] = file.read().decode().strip()
    assert contents == {"linux/amd64": "amd64", "linux/arm64": "arm64"}
