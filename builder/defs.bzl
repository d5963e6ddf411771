"""`policy` and `policy_image`: a policy version as a target, and an image with exactly the chosen ones (R-40).

    policy(name = "set-header", version = "v1.0.0")

    policy_image(name = "image", policies = ["//policies/set-header/v1_0_0"])
"""

load("@rules_oci//oci:defs.bzl", "oci_image", "oci_load", "oci_push")
load("@rules_python//python:py_info.bzl", "PyInfo")
load("@rules_python//python:py_library.bzl", "py_library")
load("//tools/image:layers.bzl", "LAYER_TOOL", "declare_layer", "python_entries")
load("//tools/python:defs.bzl", "pytest_tests")

POLICIES = "/app/policies"
CONFIGURATION = "/etc/policy-engine"

# What every image says about itself; `policy-engine config show` lists all such variables. ext_proc and health are
# asked from other containers; the admin pages stay on loopback.
ENVIRONMENT = {
    "POLICY_ENGINE_CHAINS": CONFIGURATION + "/chains.yaml",
    "POLICY_ENGINE_HEALTH_LISTEN": "0.0.0.0:9004",
    "POLICY_ENGINE_LISTEN": "0.0.0.0:9002",
    "POLICY_ENGINE_POLICIES_REGISTRY": POLICIES + "/registry.json",
}

PolicyInfo = provider(
    doc = "One version of one policy.",
    fields = {
        "files": "structs of `path` (relative to the policy's directory) and `file`",
        "name": "as in policy.yaml",
        "requirements": "targets of its third-party libraries",
        "version": "as in policy.yaml, `v1.0.0`",
    },
)

def _policy_impl(ctx):
    prefix = ctx.label.package + "/"
    files = [
        struct(path = file.short_path.removeprefix(prefix), file = file)
        for file in ctx.files.srcs
    ]
    if not [file for file in files if file.path == "policy.yaml"]:
        fail("%s has no policy.yaml; //policies/set-header/v1_0_0 shows what a policy consists of" % ctx.label)
    return [
        DefaultInfo(files = depset(ctx.files.srcs)),
        PolicyInfo(
            name = ctx.attr.policy_name,
            version = ctx.attr.version,
            files = files,
            requirements = ctx.attr.deps,
        ),
    ]

_policy = rule(
    implementation = _policy_impl,
    attrs = {
        "deps": attr.label_list(providers = [PyInfo]),
        "policy_name": attr.string(mandatory = True),
        "srcs": attr.label_list(allow_files = True, mandatory = True),
        "version": attr.string(mandatory = True),
    },
)

def policy(name, version, deps = [], test_deps = [], visibility = ["//visibility:public"], **kwargs):
    """One version of a policy: the directory of the BUILD file with policy.yaml, its Python code, README and tests.

    Also makes a test of every `*_test.py`, and an alias named after the directory, so that
    `//policies/set-header/v1_0_0` is the policy.

    Args:
      name: of the policy, as in policy.yaml.
      version: as in policy.yaml, `v1.0.0`.
      deps: its own requirements, `@pypi//…`; only images with this policy get them.
      test_deps: more requirements of its tests.
      visibility: who may choose it.
      **kwargs: common attributes.
    """
    tests = native.glob(["**/*_test.py", "**/conftest.py", "testdata/**"], allow_empty = True)
    sources = native.glob(["**"], exclude = tests + ["BUILD.bazel", "**/__pycache__/**"])
    _policy(
        name = name,
        srcs = sources,
        deps = deps,
        policy_name = name,
        version = version,
        visibility = visibility,
        **kwargs
    )
    directory = native.package_name().split("/")[-1]
    if directory != name:
        native.alias(name = directory, actual = name, visibility = visibility)
    py_library(
        name = name + ".lib",
        srcs = [source for source in sources if source.endswith(".py")],
        data = [source for source in sources if not source.endswith(".py")],
        deps = deps,
        visibility = ["//policies:__subpackages__"],
    )
    pytest_tests(
        srcs = [test for test in tests if test.endswith("_test.py")],
        common = [test for test in tests if test.endswith("conftest.py")],
        data = [test for test in tests if not test.endswith(".py")],
        deps = [":%s.lib" % name, "//engine:policy_engine", "@pypi//pytest_asyncio"] + test_deps,
    )

def _chosen(ctx):
    """Returns the chosen policies, sorted; fails when two have the same name and version."""
    chosen = {}
    duplicates = []
    for target in ctx.attr.policies:
        info = target[PolicyInfo]
        key = "%s %s" % (info.name, info.version)
        if key in chosen and chosen[key].label != target.label:
            duplicates.append("%s is both %s and %s" % (key, chosen[key].label, target.label))
        chosen[key] = target
    if duplicates:
        fail("%s: %s. Choose one of them." % (ctx.label, "; ".join(duplicates)))
    return [chosen[key] for key in sorted(chosen)]

def _policy_layers_impl(ctx):
    policies = _chosen(ctx)
    name = ctx.label.name

    installed = python_entries([ctx.attr.engine])
    engine = [entry for entry in installed if not entry.file.short_path.startswith("../")]
    requirements = [entry for entry in installed if entry.file.short_path.startswith("../")]
    present = {entry.path: True for entry in installed}
    extra_targets = [target for policy in policies for target in policy[PolicyInfo].requirements]
    extras = [entry for entry in python_entries(extra_targets) if entry.path not in present]

    registry = ctx.actions.declare_file(name + ".registry.json")
    labels = ctx.actions.declare_file(name + ".labels.txt")
    tags = ctx.actions.declare_file(name + ".tags.txt")
    request = ctx.actions.declare_file(name + ".chosen.json")
    directories = {policy.label: _directory(policy[PolicyInfo]) for policy in policies}
    ctx.actions.write(request, json.encode({
        "engine": ctx.file.engine_version.path,
        "repository": ctx.attr.repository,
        "policies": [{
            "label": str(policy.label),
            "name": policy[PolicyInfo].name,
            "version": policy[PolicyInfo].version,
            "directory": directories[policy.label],  # relative to the registry, as the engine reads it
            "files": [{"path": entry.path, "source": entry.file.path} for entry in policy[PolicyInfo].files],
        } for policy in policies],
    }))
    policy_files = [entry.file for policy in policies for entry in policy[PolicyInfo].files]
    ctx.actions.run(
        executable = ctx.executable._resolve,
        arguments = [request.path, registry.path, labels.path, tags.path],
        inputs = [request, ctx.file.engine_version] + policy_files,
        outputs = [registry, labels, tags],
        mnemonic = "ResolvePolicies",
        progress_message = "Resolving the policies of %{label}",
    )

    engine += [struct(path = "/usr/local/bin/policy-engine", file = ctx.file.launcher)]
    engine += [struct(path = CONFIGURATION + "/" + file.basename, file = file) for file in ctx.files.configuration]
    layers = [
        declare_layer(ctx, name + ".requirements", requirements),
        declare_layer(ctx, name + ".engine", engine, [{"path": CONFIGURATION, "directory": True}]),
    ]
    if extras:
        layers.append(declare_layer(ctx, name + ".policy_requirements", extras))
    for policy in policies:
        info = policy[PolicyInfo]
        layers.append(declare_layer(ctx, "%s.%s.%s" % (name, info.name, info.version), [
            struct(path = "/".join([POLICIES, directories[policy.label], entry.path]), file = entry.file)
            for entry in info.files
        ]))
    layers.append(declare_layer(ctx, name + ".registry", [struct(path = POLICIES + "/registry.json", file = registry)]))
    return [
        DefaultInfo(files = depset(layers, order = "preorder")),
        OutputGroupInfo(
            labels = depset([labels]),
            registry = depset([registry]),
            tags = depset([tags]),
        ),
    ]

def _directory(info):
    return "/".join([info.name, info.version])

_policy_layers = rule(
    implementation = _policy_layers_impl,
    attrs = {
        "configuration": attr.label_list(allow_files = True),
        "engine": attr.label(providers = [PyInfo], mandatory = True),
        "engine_version": attr.label(allow_single_file = True, mandatory = True),
        "launcher": attr.label(allow_single_file = True, mandatory = True),
        "policies": attr.label_list(providers = [PolicyInfo]),
        "repository": attr.string(mandatory = True),
        "_resolve": attr.label(default = "//builder:resolve", executable = True, cfg = "exec"),
    } | LAYER_TOOL,
)

def policy_image(name, policies, configuration = [], repository = "policy-engine", visibility = ["//visibility:public"]):
    """An OCI image with the engine, the chosen policies, and only what those need.

    `bazel run :NAME` loads it into docker or podman as REPOSITORY:ENGINE_VERSION; `:NAME.push` pushes it, `:NAME.digest`
    is its digest, `:NAME.tar` the tarball, `:NAME.registry` the registry that the engine reads, `:NAME.oci` the layout.

    Args:
      name: of the target that loads the image.
      policies: labels of `policy` targets.
      configuration: files for /etc/policy-engine; a deployment mounts its own over them.
      repository: the image's name in the local container engine.
      visibility: of all these targets.
    """
    layers = name + ".layers"
    _policy_layers(
        name = layers,
        configuration = configuration,
        engine = "//engine:policy_engine",
        engine_version = "//engine:policy_engine/__init__.py",
        launcher = "//engine:launch.py",
        policies = policies,
        repository = repository,
        visibility = ["//visibility:private"],
    )
    for group in ("labels", "registry", "tags"):
        native.filegroup(
            name = "%s.%s" % (name, group),
            srcs = [layers],
            output_group = group,
            visibility = visibility,
        )
    oci_image(
        name = name + ".oci",
        architecture = "amd64",
        entrypoint = [
            "/usr/local/bin/policy-engine",
            "run",
        ],
        env = ENVIRONMENT,
        exposed_ports = [
            "9002/tcp",
            "9004/tcp",
        ],
        labels = ":%s.labels" % name,
        os = "linux",
        tars = ["//tools/image:base", layers],
        user = "65532:65532",
        visibility = visibility,
        workdir = "/home/nonroot",
    )
    image_targets(name, name + ".oci", ":%s.tags" % name, visibility)

def image_targets(name, image, tags, visibility = ["//visibility:public"]):
    """`NAME` (loads the image), `NAME.push`, `NAME.digest` and `NAME.tar` for an oci_image.

    Args:
      name: of the target that loads the image.
      image: the oci_image.
      tags: a file of `repository:tag` lines.
      visibility: of all these targets.
    """
    oci_load(
        name = name,
        image = image,
        loader = "//tools/image:load.sh",
        repo_tags = tags,
        visibility = visibility,
    )
    native.filegroup(
        name = name + ".tar",
        srcs = [name],
        output_group = "tarball",
        visibility = visibility,
    )
    native.alias(name = name + ".digest", actual = image + ".digest", visibility = visibility)
    oci_push(name = name + ".push", image = image, visibility = visibility)
