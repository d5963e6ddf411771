"""The recipe of every image: what goes into it, where that lies, in which layer, and how a container of it runs.

Bazel (builder/defs.bzl, tools/image/layers.bzl) loads this file and `policy-builder` runs the same file (recipe.py), so
both make one image. Therefore only what Starlark and Python have in common is written here: no import, no `load`, no
f-string, no `while`, no class.
"""

# Python and Debian packages.

# Version of the interpreter in every image, of Debian (tools/image/debian.lock.json).
PYTHON = "3.13"

# Debian packages without which Python does not start: unpacked where images are built, it compiles their modules.
PYTHON_PACKAGES = [
    "libc6",
    "libexpat1",
    "libpython3.13-minimal",
    "python3.13-minimal",
    "zlib1g",
]

# The C library of images is glibc 2.41; wheels name the oldest one that they run with (PEP 600).
GLIBC_MINOR = 41

# Architectures of images as OCI and Debian call them, and as `uname -m` does.
MACHINES = {
    "amd64": "x86_64",
    "arm64": "aarch64",
}

# Where things lie.

# Debian's Python looks here for what was not installed by Debian, so no PYTHONPATH is needed in the image.
SITE_PACKAGES = "/usr/local/lib/python" + PYTHON + "/dist-packages"
POLICIES = "/app/policies"
CONFIGURATION = "/etc/policy-engine"
LAUNCHER = "/usr/local/bin/policy-engine"

# Modules below get bytecode, since Python imports from there.
MODULES = [
    "/usr/lib/python" + PYTHON,
    "/usr/local/lib/python" + PYTHON,
    POLICIES,
]

# The files that describe an image: in POLICIES, and beside the image.
DOCUMENTS = {
    "build_info": "build-info.json",
    "licences": "licences.txt",
    "registry": "registry.json",
    "sbom": "sbom.cdx.json",
}

# How a container runs.

ENTRYPOINT = [LAUNCHER, "run"]
USER_ID = 65532
USER = "%d:%d" % (USER_ID, USER_ID)
WORKDIR = "/home/nonroot"
PORTS = [
    "9002/tcp",
    "9004/tcp",
]

# What every image says about itself; `policy-engine config show` lists all such variables. ext_proc and health are
# asked from other containers; the admin pages stay on loopback.
ENVIRONMENT = {
    "POLICY_ENGINE_DEFAULT_CHAINS": CONFIGURATION + "/chains.yaml",
    "POLICY_ENGINE_DEFAULT_HEALTH_LISTEN": "0.0.0.0:9004",
    "POLICY_ENGINE_DEFAULT_LISTEN": "0.0.0.0:9002",
    "POLICY_ENGINE_DEFAULT_POLICIES_REGISTRY": POLICIES + "/" + DOCUMENTS["registry"],
}

# At most so many layers for policies; above that, several share one. Container engines stop at 127 layers.
MAX_POLICY_LAYERS = 100

# What `policy-manifest.yaml` may say.

MANIFEST_FORMAT = "v1"
MANIFEST_KEYS = [
    "configuration",
    "libraries",
    "policies",
    "repository",
    "version",
    "wheels",
]
MANIFEST_ENTRY_KEYS = [
    "name",
    "package",
    "path",
    "version",
]
DEFAULT_REPOSITORY = "policy-engine"

# What goes in.

# Files that tell Bazel of a package.
BUILD_FILES = [
    "BUILD",
    "BUILD.bazel",
]

def is_test(path):
    """Returns whether a file is there for tests only.

    Args:
      path: of the file, relative to the directory of the policy or of the import root.
    """
    parts = path.split("/")
    return parts[-1].endswith("_test.py") or parts[-1] == "conftest.py" or "testdata" in parts[:-1]

def is_debris(path):
    """Tells what tools leave or need (bytecode, caches, hidden files, files of Bazel) from all else.

    Args:
      path: of the file, relative to the directory of the policy or of the import root.

    Returns:
      Whether the file is of that kind.
    """
    parts = path.split("/")
    bytecode = parts[-1].endswith(".pyc") or parts[-1].endswith(".pyo")
    left_behind = any([part.startswith(".") or part == "__pycache__" for part in parts])
    return bytecode or left_behind or parts[-1] in BUILD_FILES

def belongs_in_image(path):
    """Returns whether a file of a policy, or of the engine's package, goes into an image.

    Args:
      path: of the file, relative to the directory of the policy or of the import root.
    """
    return not is_test(path) and not is_debris(path)

def library_belongs_in_image(path):
    """Returns whether a file of a library that policies share goes into an image.

    Its README.md and requirements.txt are for people, its testing.py is what the tests of policies import.

    Args:
      path: of the file, relative to the import root.
    """
    return belongs_in_image(path) and path.split("/")[-1] not in ["README.md", "requirements.txt", "testing.py"]

def wheel_belongs_in_image(path):
    """Returns whether a file of a wheel is of use in an image.

    A directory with a hyphen is no package that code could import (stubs, what a build left behind), and a name with a
    space is none that a Bazel label can have.

    Args:
      path: of the file, relative to site-packages.
    """
    top = path.split("/")[0]
    return " " not in path and not (top != path and "-" in top and not top.endswith(".dist-info"))

def is_nested_package(path):
    """Returns whether a file makes the directory it is in, below that of a policy, a package of its own for Bazel.

    Bazel would leave such a directory out of the policy, so no policy has one.

    Args:
      path: of the file, relative to the policy's directory.
    """
    parts = path.split("/")
    return len(parts) > 1 and parts[-1] in BUILD_FILES

def policy_directory(name, version):
    """Returns where a policy lies in an image, relative to POLICIES.

    Args:
      name: of the policy.
      version: of the policy, `v1.0.0`.
    """
    return name + "/" + version

def layers(requirements, engine, policy_requirements, policies, documents):
    """Returns the layers above the base, lowest first: what changes least lies lowest.

    So a changed line of one policy changes its own small layer, and the last one, which describes the image.

    Args:
      requirements: what the engine needs; this and the following are lists of entries of any kind.
      engine: the engine itself, with its configuration.
      policy_requirements: what policies need and the engine does not; no layer when there is nothing.
      policies: pairs of name (with version) and entries, sorted.
      documents: what describes the image.

    Returns:
      Pairs of the layer's name and its entries.
    """
    found = [("requirements", requirements), ("engine", engine)]
    if policy_requirements:
        found.append(("policy-requirements", policy_requirements))
    in_one = max(1, (len(policies) + MAX_POLICY_LAYERS - 1) // MAX_POLICY_LAYERS)
    for start in range(0, len(policies), in_one):
        group = policies[start:start + in_one]
        found.append((group[0][0], [entry for _, entries in group for entry in entries]))
    found.append(("registry", documents))
    return found
