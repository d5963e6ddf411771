"""`policy` and `policy_image`: a policy version as a target, and an image with exactly the chosen ones (R-40).

    policy(name = "set-header", version = "v1.0.0")

    policy_image(name = "image", policies = ["//policies/set-header/v1_0_0"])
"""

load("@rules_oci//oci:defs.bzl", "oci_image", "oci_image_index", "oci_load", "oci_push")
load("@rules_python//python:py_info.bzl", "PyInfo")
load("@rules_python//python:py_library.bzl", "py_library")
load("@rules_python//python:py_test.bzl", "py_test")
load("//tools/image:layers.bzl", "ARCHITECTURE", "LAYER_TOOL", "declare_layer", "owner_of", "python_entries")
load("//tools/python:defs.bzl", "pytest_tests")
load(
    ":policy_builder/recipe.bzl",
    "COMPRESSION",
    "COMPRESSIONS",
    "CONFIGURATION",
    "DOCUMENTS",
    "ENTRYPOINT",
    "ENVIRONMENT",
    "LAUNCHER",
    "MACHINES",
    "POLICIES",
    "PORTS",
    "SITE_PACKAGES",
    "USER",
    "WORKDIR",
    "belongs_in_image",
    "is_debris",
    "is_own_variable",
    "is_test",
    "library_belongs_in_image",
    "policy_directory",
    recipe_layers = "layers",
)

# What `NAME.index` of an image is made for.
PLATFORMS = ["linux_" + architecture for architecture in MACHINES]

PolicyInfo = provider(
    doc = "One version of one policy.",
    fields = {
        "files": "structs of `path` (relative to the policy's directory) and `file`; no tests",
        "name": "as in policy.yaml",
        "package": "None, or of the wheel that brings it: struct of `owner`, `files` (its description) and `wheel`",
        "requirements": "entries of what it needs, as python_entries() returns them",
        "tests": "names of its tests",
        "version": "as in policy.yaml, `v1.0.0`",
        "where": "how its directory is called in reports",
    },
)

def _policy_impl(ctx):
    prefix = ctx.label.package + "/"
    files = [
        struct(path = file.short_path.split("/" + prefix)[-1].removeprefix(prefix), file = file)
        for file in ctx.files.srcs
    ]
    return [
        DefaultInfo(files = depset(ctx.files.srcs)),
        PolicyInfo(
            name = ctx.attr.policy_name,
            version = ctx.attr.version,
            files = files,
            package = None,
            requirements = python_entries(ctx, ctx.attr.deps),
            tests = ctx.attr.tests,
            where = ctx.label.package,
        ),
    ]

_policy = rule(
    implementation = _policy_impl,
    attrs = {
        "deps": attr.label_list(providers = [PyInfo]),
        "policy_name": attr.string(mandatory = True),
        "srcs": attr.label_list(allow_files = True, mandatory = True),
        "tests": attr.string_list(),
        "version": attr.string(mandatory = True),
    },
)

def _policy_from_wheel_impl(ctx):
    wheel = owner_of(ctx.attr.wheel.label)
    entries = python_entries(ctx, [ctx.attr.wheel])
    prefix = "/".join([SITE_PACKAGES] + ctx.attr.package.split(".")) + "/"
    if not ctx.attr.package:
        prefix = _policy_directory(ctx, [entry.path for entry in entries if entry.owner == wheel])
    inside = [
        struct(path = entry.path.removeprefix(prefix), file = entry.file)
        for entry in entries
        if entry.owner == wheel and entry.path.startswith(prefix)
    ]
    return [
        DefaultInfo(files = depset([entry.file for entry in inside])),
        PolicyInfo(
            name = ctx.attr.policy_name,
            version = ctx.attr.version,
            files = [entry for entry in inside if belongs_in_image(entry.path)],
            package = struct(
                files = [
                    struct(path = entry.path.removeprefix(SITE_PACKAGES + "/"), file = entry.file)
                    for entry in entries
                    if entry.owner == wheel and entry.path.endswith(".dist-info/METADATA")
                ],
                owner = wheel,
                wheel = ctx.file.whl,
            ),
            requirements = [entry for entry in entries if entry.owner != wheel],
            tests = [entry.path for entry in inside if is_test(entry.path) and not is_debris(entry.path)],
            where = "%s/%s" % (ctx.attr.wheel.label.repo_name, prefix.removeprefix(SITE_PACKAGES + "/").rstrip("/")),
        ),
    ]

def _policy_directory(ctx, paths):
    """Returns the directory of a wheel that is called like the policy, or the only one with a policy.yaml."""
    found = [path.removesuffix("policy.yaml") for path in paths if path.endswith("/policy.yaml")]
    name = ctx.attr.policy_name.replace("-", "_")
    endings = ["/%s/%s/" % (name, ctx.attr.version.replace(".", "_")), "/%s/" % name]
    for ending in endings:
        named = [path for path in found if path.endswith(ending)]
        if len(named) == 1:
            return named[0]
    if len(found) != 1:
        fail("%s: which package of %s is %s %s? It has %s. Name it: policy_from_wheel(package = …)." % (
            ctx.label,
            ctx.attr.wheel.label,
            ctx.attr.policy_name,
            ctx.attr.version,
            ", ".join([path.removeprefix(SITE_PACKAGES) for path in found]) or "no policy.yaml",
        ))
    return found[0]

_policy_from_wheel = rule(
    implementation = _policy_from_wheel_impl,
    attrs = {
        "package": attr.string(),
        "policy_name": attr.string(mandatory = True),
        "version": attr.string(mandatory = True),
        "wheel": attr.label(mandatory = True, providers = [PyInfo]),
        "whl": attr.label(allow_single_file = [".whl"]),
    },
)

def policy_from_wheel(
        name,
        version,
        wheel,
        package = "",
        policy_name = None,
        whl = None,
        visibility = ["//visibility:public"]):
    """A policy that a wheel of the lock brings; chosen like any other.

    Only the policy's own directory goes into an image, and what the wheel requires.

    Args:
      name: of the target.
      version: of the policy, `v1.0.0`.
      wheel: `@pypi//NAME`.
      package: the package of the wheel that is the policy's directory; the value of its entry point in the group
        `policy_engine.policies`. May be left out when it is called like the policy (`…/NAME/v1_0_0`, `…/NAME`).
      policy_name: as in policy.yaml, when it is not `name`.
      whl: the wheel itself, `@pypi//NAME:whl`; then the image says its hash.
      visibility: who may choose it.
    """
    _policy_from_wheel(
        name = name,
        package = package,
        policy_name = policy_name or name,
        version = version,
        visibility = visibility,
        wheel = wheel,
        whl = whl,
    )

def policy(name, version, deps = [], test_deps = [], visibility = ["//visibility:public"], **kwargs):
    """One version of a policy: the directory of the BUILD file with policy.yaml, its Python code, README and tests.

    Also makes `NAME.tests`: every `*_test.py`, `NAME.validate` (policy-validator) and `NAME.interface` (schema-checker);
    and an alias named after the directory, so that `//policies/set-header/v1_0_0` is the policy.

    Args:
      name: of the policy, as in policy.yaml.
      version: as in policy.yaml, `v1.0.0`.
      deps: its own requirements, `@pypi//…`; only images with this policy get them.
      test_deps: more requirements of its tests.
      visibility: who may choose it.
      **kwargs: common attributes.
    """
    for package in native.subpackages(include = ["**"], allow_empty = True):
        fail("//%s/%s is a package of Bazel inside the policy %s, which would lack it: only the policy's own directory has a BUILD file" % (
            native.package_name(),
            package,
            name,
        ))
    files = [file for file in native.glob(["**"]) if not is_debris(file)]
    tests = [file for file in files if is_test(file)]
    sources = [file for file in files if belongs_in_image(file)]
    _policy(
        name = name,
        srcs = sources,
        deps = deps,
        policy_name = name,
        tests = tests,
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
        visibility = [Label("//policies:__subpackages__")],
    )
    cases = [test for test in tests if test.endswith("_test.py")]
    pytest_tests(
        srcs = cases,
        common = [test for test in tests if test.endswith("conftest.py")],
        data = [test for test in tests if not test.endswith(".py")],
        deps = [":%s.lib" % name, Label("//engine:policy_engine"), _pypi("pytest_asyncio")] + test_deps,
    )
    for check, tool in {"interface": "schema_tool.py", "validate": "validator_tool.py"}.items():
        main = Label("//builder:policy_builder/commands/" + tool)
        py_test(
            name = "%s.%s" % (name, check),
            size = "small",
            srcs = [main],
            main = main,
            args = ["--follow-links", "$(rootpath policy.yaml)"],
            data = sources + tests,
            deps = [Label("//builder:policy_builder")],
        )
    native.test_suite(
        name = name + ".tests",
        tests = [":" + file.removesuffix(".py").replace("/", ".") for file in cases] +
                [":%s.%s" % (name, check) for check in ["interface", "validate"]],
        visibility = visibility,
    )

def policy_library(name, deps = [], test_deps = [], visibility = None):
    """A package that policies share: the directory of the BUILD file, the one above is the import root.

    Also makes a test of each `*_test.py`, and `testing`, what tests of policies import, where there is a testing.py.

    Args:
      name: of the package.
      deps: its own requirements, `@pypi//…`; only images with a policy that uses it get them.
      test_deps: more requirements of its tests.
      visibility: who may use both.
    """
    files = native.glob(["**"])
    sources = [file for file in files if library_belongs_in_image(file)]
    py_library(
        name = name,
        srcs = [source for source in sources if source.endswith(".py")],
        data = [source for source in sources if not source.endswith(".py")],
        imports = [".."],
        visibility = visibility,
        deps = deps,
    )
    if "testing.py" in files:
        py_library(
            name = "testing",
            testonly = True,
            srcs = ["testing.py"],
            imports = [".."],
            visibility = visibility,
            deps = [":" + name],
        )
        test_deps = test_deps + [":testing"]
    pytest_tests(
        srcs = [file for file in files if file.endswith("_test.py")],
        deps = [":" + name, Label("//engine:policy_engine"), _pypi("pytest_asyncio")] + test_deps,
    )

def policy_test_suite(name, policies, visibility = None):
    """Every test of some policies: their own, policy-validator and schema-checker.

    Args:
      name: of the suite.
      policies: labels of `policy` targets in the form `//DIRECTORY:NAME`.
      visibility: of the suite.
    """
    native.test_suite(name = name, tests = [policy + ".tests" for policy in policies], visibility = visibility)

def _pypi(name):
    return Label("@pypi//" + name)

def _policy_layers_impl(ctx):
    name = ctx.label.name
    installed = python_entries(ctx, [ctx.attr.engine])
    own = ctx.attr.engine.label.repo_name
    engine = [entry for entry in installed if entry.file.owner.repo_name == own]
    requirements = [entry for entry in installed if entry.file.owner.repo_name != own]
    present = {entry.path: True for entry in installed}

    # Two policies of one name and version are refused by the tool, with everything else that is wrong.
    policies = {
        "%s %s" % (target[PolicyInfo].name, target[PolicyInfo].version): target[PolicyInfo]
        for target in ctx.attr.policies
    }
    policies = [policies[key] for key in sorted(policies)]
    extras = {}
    for info in policies:
        extras.update({entry.path: entry for entry in info.requirements if entry.path not in present})

    outputs = {
        key: ctx.actions.declare_file("%s/%s" % (name, file))
        for key, file in (DOCUMENTS | {
            "labels": "labels.txt",
            "remote_tags": "remote_tags.txt",
            "tags": "tags.txt",
        }).items()
    }
    metadata = ctx.actions.declare_directory(name + "/metadata")
    _describe(ctx, engine, requirements, outputs | {"metadata": metadata})

    engine.append(struct(path = LAUNCHER, file = ctx.file.launcher))
    engine.append(struct(path = SITE_PACKAGES, file = metadata))
    engine += [struct(path = CONFIGURATION + "/" + file.basename, file = file) for file in ctx.files.configuration]
    engine.append(struct(path = CONFIGURATION, file = None))
    layers = [declare_layer(ctx, "%s/%s" % (name, layer), entries, ctx.attr.compression) for layer, entries in recipe_layers(
        requirements,
        engine,
        extras.values(),
        [("%s.%s" % (info.name, info.version), _policy_entries(info)) for info in policies],
        [struct(path = POLICIES + "/" + file, file = outputs[key]) for key, file in DOCUMENTS.items()],
    )]
    groups = {key: depset([file]) for key, file in outputs.items()}
    return [
        DefaultInfo(files = depset(layers, order = "preorder")),
        OutputGroupInfo(**groups),
    ]

def _policy_entries(info):
    """Returns the entries of a policy's layer."""
    directory = "%s/%s/" % (POLICIES, policy_directory(info.name, info.version))
    return [struct(path = directory + entry.path, file = entry.file) for entry in info.files]

def _describe(ctx, engine, requirements, outputs):
    """Declares the action that checks the policies and writes what describes the image."""
    request = ctx.actions.declare_file(ctx.label.name + "/request.json")
    policies = [(target.label, target[PolicyInfo]) for target in ctx.attr.policies]
    ctx.actions.write(request, json.encode({
        "architecture": ctx.attr.architecture,
        "configuration": [file.path for file in ctx.files.configuration],
        "debian_lock": ctx.file._debian_lock.path,
        "engine": {
            "files": _described(engine),
            "launcher": ctx.file.launcher.path,
            "licence": ctx.file.licence.path,
            "requirements": _described(requirements),
            "version": ctx.file.engine_version.path,
        },
        "label": str(ctx.label).removesuffix(".layers"),
        "labels": ctx.attr.labels,
        "policies": [{
            "files": [{"path": entry.path, "source": entry.file.path} for entry in info.files],
            "label": str(label),
            "name": info.name,
            "package": _described_package(info.package),
            "requirements": _described(info.requirements),
            "tests": info.tests,
            "version": info.version,
            "where": info.where,
        } for label, info in policies],
        "repository": ctx.attr.repository,
        "tags": ctx.attr.image_tags,
    }))
    entries = engine + requirements
    for _, info in policies:
        entries = entries + info.files + info.requirements
        if info.package:
            entries = entries + info.package.files
            entries = entries + ([struct(file = info.package.wheel)] if info.package.wheel else [])
    ctx.actions.run(
        executable = ctx.executable._tool,
        arguments = [request.path] + ["%s=%s" % (key, file.path) for key, file in outputs.items()],
        inputs = depset(
            [request, ctx.file.engine_version, ctx.file.launcher, ctx.file.licence, ctx.file._debian_lock] + ctx.files.configuration +
            [entry.file for entry in entries],
        ),
        outputs = outputs.values(),
        mnemonic = "CheckPolicies",
        progress_message = "Checking the policies of %{label}",
    )

def _described_package(package):
    """Returns the wheel that brings a policy, for the tool; None for a policy from a directory."""
    if not package:
        return None
    return {
        "files": [{"path": entry.path, "source": entry.file.path} for entry in package.files],
        "owner": package.owner,
        "wheel": package.wheel.path if package.wheel else None,
    }

def _described(entries):
    """Returns installed files for the tool: their names below site-packages, where they are and whose they are."""
    return [
        {"owner": entry.owner, "path": entry.path.removeprefix(SITE_PACKAGES + "/"), "source": entry.file.path}
        for entry in entries
    ]

_policy_layers = rule(
    implementation = _policy_layers_impl,
    attrs = {
        "architecture": attr.string(mandatory = True),
        "compression": attr.string(default = COMPRESSION, values = COMPRESSIONS.keys()),
        "configuration": attr.label_list(allow_files = True),
        "engine": attr.label(providers = [PyInfo], mandatory = True),
        "engine_version": attr.label(allow_single_file = True, mandatory = True),
        "image_tags": attr.string_list(),
        "labels": attr.string_dict(),
        "launcher": attr.label(allow_single_file = True, mandatory = True),
        "licence": attr.label(allow_single_file = True, mandatory = True),
        "policies": attr.label_list(providers = [PolicyInfo]),
        "repository": attr.string(mandatory = True),
        "_debian_lock": attr.label(default = "//tools/image:debian.lock.json", allow_single_file = True),
        "_tool": attr.label(default = "//builder:bazel_tool", executable = True, cfg = "exec"),
    } | LAYER_TOOL,
)

def policy_image(
        name,
        policies,
        manifest = {},
        annotations = None,
        compression = None,
        configuration = None,
        env = None,
        image_tags = None,
        labels = None,
        repository = None,
        visibility = ["//visibility:public"]):
    """An OCI image with the engine, the chosen policies, and only what those need.

    `bazel run :NAME` loads it into docker or podman as REPOSITORY:ENGINE_VERSION, or with `image_tags`; `:NAME.push`
    pushes it, `:NAME.digest` is its digest, `:NAME.tar` the tarball, `:NAME.oci` the layout; `:NAME.registry`,
    `:NAME.build_info`, `:NAME.sbom` and `:NAME.licences` are the files that describe it. `:NAME.index` is the same image
    for every platform, `:NAME.index.push` pushes that. The build fails, with all mistakes in one report, unless the
    policies are right and go together.

    Args:
      name: of the target that loads the image.
      policies: labels of `policy` targets.
      manifest: `IMAGE` of a manifest of policies (builder/manifest.bzl); what is given below goes before it.
      annotations: of the image's manifest (OCI image specification).
      compression: of its layers, `gzip` or `none`.
      configuration: files for /etc/policy-engine, UTF-8 text without secrets; a deployment mounts its own over them.
      env: more environment variables.
      image_tags: its tags, where it is loaded and pushed; the engine's version unless given.
      labels: more labels; those that begin with `policy-engine.` are the builder's.
      repository: the image's name in the local container engine, and where `:NAME.push` pushes by default.
      visibility: of all these targets.
    """
    given = {
        "annotations": annotations,
        "compression": compression,
        "configuration": configuration,
        "env": env,
        "image_tags": image_tags,
        "labels": labels,
        "repository": repository,
    }
    image = {
        "annotations": {},
        "compression": COMPRESSION,
        "configuration": [],
        "env": {},
        "image_tags": [],
        "labels": {},
        "repository": "policy-engine",
    } | manifest | {key: value for key, value in given.items() if value != None}
    repository = image["repository"]
    layers = name + ".layers"
    for variable in image["env"]:
        if is_own_variable(variable):
            fail("%s: env sets %s, which is what the image says of itself" % (name, variable))
    _policy_layers(
        name = layers,
        architecture = ARCHITECTURE,
        compression = image["compression"],
        configuration = image["configuration"],
        engine = Label("//engine:policy_engine"),
        engine_version = Label("//engine:policy_engine/__init__.py"),
        image_tags = image["image_tags"],
        labels = image["labels"],
        launcher = Label("//engine:launch.py"),
        licence = Label("//:LICENSE"),
        policies = policies,
        repository = repository,
        visibility = ["//visibility:private"],
    )
    for group in DOCUMENTS.keys() + ["labels", "remote_tags", "tags"]:
        native.filegroup(
            name = "%s.%s" % (name, group),
            srcs = [layers],
            output_group = group,
            visibility = visibility,
        )
    oci_image(
        name = name + ".oci",
        annotations = image["annotations"],
        architecture = ARCHITECTURE,
        entrypoint = ENTRYPOINT,
        env = ENVIRONMENT | image["env"],
        exposed_ports = PORTS,
        labels = ":%s.labels" % name,
        os = "linux",
        tars = [Label("//tools/image:base." + image["compression"]), layers],
        user = USER,
        visibility = visibility,
        workdir = WORKDIR,
    )
    remote_tags = ":%s.remote_tags" % name
    image_targets(name, name + ".oci", ":%s.tags" % name, repository, visibility, remote_tags)
    image_index(name + ".index", name + ".oci", repository, visibility, remote_tags)

def image_index(name, image, repository, visibility = ["//visibility:public"], remote_tags = None):
    """`NAME`, an index over `image` built for each of PLATFORMS, and `NAME.push`; made on demand, not by `//...`.

    Args:
      name: of the index, an OCI layout.
      image: the oci_image.
      repository: where `NAME.push` pushes without `--repository`.
      visibility: of both targets.
      remote_tags: a file of tags that `NAME.push` gives it.
    """
    oci_image_index(
        name = name,
        images = [image],
        platforms = [Label("//tools/image:" + platform) for platform in PLATFORMS],
        tags = ["manual"],
        visibility = visibility,
    )
    oci_push(
        name = name + ".push",
        image = name,
        remote_tags = remote_tags,
        repository = _registry(repository),
        tags = ["manual"],
        visibility = visibility,
    )

def _registry(repository):
    return repository if "/" in repository else "localhost:5000/" + repository

def image_targets(name, image, tags, repository, visibility = ["//visibility:public"], remote_tags = None):
    """`NAME` (loads the image), `NAME.push`, `NAME.digest` and `NAME.tar` for an oci_image.

    Args:
      name: of the target that loads the image.
      image: the oci_image.
      tags: a file of `repository:tag` lines.
      repository: where `NAME.push` pushes without `--repository`; without a host, to a registry on this machine.
      visibility: of all these targets.
      remote_tags: a file of tags that `NAME.push` gives it.
    """
    oci_load(
        name = name,
        image = image,
        loader = Label("//tools/image:load.sh"),
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
    oci_push(
        name = name + ".push",
        image = image,
        remote_tags = remote_tags,
        repository = _registry(repository),
        visibility = visibility,
    )
