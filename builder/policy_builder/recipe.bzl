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

# Debian packages of which only a part goes in: what names the system, and the texts of common licences.
PARTS = {
    "base-files": [
        "etc/debian_version",
        "etc/os-release",
        "usr/lib/os-release",
        "usr/share/common-licenses/",
        "usr/share/doc/base-files/copyright",
    ],
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
    "POLICY_ENGINE_DEFAULT_POLICIES_VERIFY": "strict",
}

# How layers are compressed, unless an image says otherwise; the bytes depend on the zlib of images alone.
COMPRESSION = "gzip"

# Endings of layers' files by how they are compressed.
COMPRESSIONS = {
    "gzip": ".tar.gz",
    "none": ".tar",
}

def is_own_label(key):
    """Returns whether a label is one that the builder writes, and nobody else.

    Args:
      key: of the label.
    """
    return key.startswith("policy-engine.")

def is_own_variable(name):
    """Returns whether an environment variable is one that every image has.

    Args:
      name: of the variable.
    """
    return name == "PATH" or name in ENVIRONMENT

# At most so many layers for policies; above that, several share one. Container engines stop at 127 layers.
MAX_POLICY_LAYERS = 100

# What `policy-manifest.yaml` may say.

MANIFEST_FORMAT = "v1"
MANIFEST_SCALARS = [
    "compression",
    "repository",
    "version",
]
MANIFEST_LISTS = [
    "configuration",
    "libraries",
    "tags",
    "wheels",
]
MANIFEST_MAPPINGS = [
    "annotations",
    "env",
    "labels",
]
MANIFEST_KEYS = sorted(MANIFEST_SCALARS + MANIFEST_LISTS + MANIFEST_MAPPINGS + ["policies"])
MANIFEST_ENTRY_KEYS = [
    "module",
    "name",
    "package",
    "path",
    "version",
]
DEFAULT_REPOSITORY = "policy-engine"

# The Bazel module that has the engine, its policies and this file.
ENGINE_MODULE = "policy_engine"

# Where a module has the packages that its policies share.
LIBRARIES = "policies/shared"

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

# Files of wheels that no running process reads: stubs of types, what compiled code was made from.
SOURCES_OF_COMPILED_CODE = [".c", ".cc", ".cpp", ".h", ".hh", ".hpp", ".pxd", ".pxi", ".pyi", ".pyx"]

# Directories of wheels that nothing in an image imports. The extensions of CEL are opened by their names only, which
# the engine does not do: its environment has the standard functions (engine/policy_engine/worker/conditions/celcpp.py).
UNUSED_OF_WHEELS = [
    "cel/",
    "cel_expr_python/ext/",
    "envoy/admin/",
    "envoy/api/",
    "envoy/config/filter/",
    "envoy/data/",
    "envoy/watchdog/",
    "google/api/apikeys/",
    "google/api/cloudquotas/",
    "google/api/servicecontrol/",
    "google/api/servicemanagement/",
    "google/api/serviceusage/",
    "google/logging/",
    "jsonschema/benchmarks/",
]

# Directories of wheels of which only a part goes in: what the engine imports, and what that imports in turn.
# recipe_test.py imports the whole engine from what is left.
PARTS_OF_WHEELS = {
    "envoy/extensions/": ["envoy/extensions/filters/http/ext_proc/"],
    "envoy/service/": [
        "envoy/service/discovery/",
        "envoy/service/ext_proc/",
    ],
    "opentelemetry/semconv/_incubating/": [
        "opentelemetry/semconv/_incubating/attributes/otel_attributes.py",
        "opentelemetry/semconv/_incubating/metrics/otel_metrics.py",
    ],
}

def wheel_belongs_in_image(path):
    """Returns whether a file of a wheel is of use in an image.

    A directory with a hyphen is no package that code could import (stubs, what a build left behind), and a name with a
    space is none that a Bazel label can have. Tests of packages, and what their compiled code was made from, stay out.

    Args:
      path: of the file, relative to site-packages.

    Returns:
      Whether it goes into an image.
    """
    parts = path.split("/")
    top = parts[0]
    if " " in path or (len(parts) > 1 and "-" in top and not top.endswith(".dist-info")):
        return False
    if "tests" in parts[1:-1] and not top.endswith(".dist-info"):
        return False
    for directory, kept in PARTS_OF_WHEELS.items():
        # An `__init__.py` on the way to what is kept stays too.
        package = path.removesuffix("__init__.py")
        wanted = [one for one in kept if path.startswith(one) or (package != path and one.startswith(package))]
        if path.startswith(directory) and not wanted:
            return False
    return not (
        any([path.startswith(unused) for unused in UNUSED_OF_WHEELS]) or
        any([parts[-1].endswith(ending) for ending in SOURCES_OF_COMPILED_CODE])
    )

def is_stripped(path):
    """Returns whether a file, if it is compiled code, goes into an image without its symbol table.

    Debian's is without them already.

    Args:
      path: of the file in the image, or relative to site-packages.
    """
    name = path.split("/")[-1]
    return not path.startswith("/usr/lib/") and (name.endswith(".so") or ".so." in name)

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
