"""The `pip` extension of rules_python ≥ 1, as far as this workspace uses it: `pip.parse(hub_name, python_version, requirements_lock)`.

Same labels as the real one: `@pypi//name` (the library) and `@pypi//name:whl` (the wheel file). Each wheel of the lock
is a repository of its own for each platform, so a changed lock fetches only what changed, and a build only what it needs.
"""

# The machines that wheels are chosen for, and when.
_MACHINES = {"aarch64": "@platforms//cpu:aarch64", "x86_64": "@platforms//cpu:x86_64"}

def _normalized(name):
    return name.lower().replace("-", "_").replace(".", "_")

def _requirements(lock):
    """Splits a pip lock file into its requirements: {normalized name: requirement line with its hashes}."""
    requirements = {}
    for line in lock.replace("\\\n", " ").split("\n"):
        line = line.split(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        name = line.split("==")[0].split("[")[0].strip()
        requirements[_normalized(name)] = " ".join([word for word in line.split(" ") if word])
    return requirements

def _wheel_impl(rctx):
    python = rctx.which("python" + rctx.attr.python_version)
    if not python:
        fail("python%s is not on PATH" % rctx.attr.python_version)
    result = rctx.execute(
        [python, "-B", rctx.path(rctx.attr._wheel_tool), rctx.attr.hub_name, rctx.attr.requirement, rctx.attr.machine],
        timeout = 1800,
    )
    if result.return_code:
        fail("%s for %s: %s%s" % (
            rctx.attr.requirement.split(" ")[0],
            rctx.attr.machine,
            result.stdout[-2000:],
            result.stderr[-4000:],
        ))

_wheel = repository_rule(
    implementation = _wheel_impl,
    attrs = {
        "hub_name": attr.string(mandatory = True),
        "machine": attr.string(mandatory = True),
        "python_version": attr.string(mandatory = True),
        "requirement": attr.string(mandatory = True),
        "_wheel_tool": attr.label(default = "//python/offline:fetch_wheel.py"),
    },
)

_HUB_BUILD = """\
package(default_visibility = ["//visibility:public"])

alias(name = "{name}", actual = ":pkg")
"""

_HUB_ALIAS = """
alias(name = "{target}", actual = select({actual}))
"""

def _hub_impl(rctx):
    rctx.file("BUILD.bazel")
    for name in rctx.attr.packages:
        build = _HUB_BUILD.format(name = name)
        for target in ["pkg", "whl"]:
            build += _HUB_ALIAS.format(target = target, actual = repr({
                constraint: "@%s_%s_%s//:%s" % (rctx.attr.hub_name, machine, name, target)
                for machine, constraint in _MACHINES.items()
            }))
        rctx.file(name + "/BUILD.bazel", build)

    # By canonical names: whoever loads them may call the hub otherwise.
    libraries = ["@@%s//%s:pkg" % (rctx.name, name) for name in rctx.attr.packages]
    wheels = ["@@%s//%s:whl" % (rctx.name, name) for name in rctx.attr.packages]
    rctx.file("requirements.bzl", "all_requirements = %r\n\nall_whl_requirements = %r\n" % (libraries, wheels))

_hub = repository_rule(
    implementation = _hub_impl,
    attrs = {
        "hub_name": attr.string(mandatory = True),
        "packages": attr.string_list(mandatory = True),
    },
)

def _pip_impl(mctx):
    parsed = {}
    for module in mctx.modules:
        for parse in module.tags.parse:
            if parse.hub_name in parsed:
                fail("two modules have a hub called %s: %s and %s. Give one of them another `hub_name`." % (
                    parse.hub_name,
                    parsed[parse.hub_name],
                    module.name,
                ))
            parsed[parse.hub_name] = module.name
            requirements = _requirements(mctx.read(parse.requirements_lock))
            for name, requirement in requirements.items():
                for machine in _MACHINES:
                    _wheel(
                        name = "%s_%s_%s" % (parse.hub_name, machine, name),
                        hub_name = parse.hub_name,
                        machine = machine,
                        python_version = parse.python_version,
                        requirement = requirement,
                    )
            _hub(name = parse.hub_name, hub_name = parse.hub_name, packages = sorted(requirements))

pip = module_extension(
    implementation = _pip_impl,
    tag_classes = {
        "parse": tag_class({
            "download_only": attr.bool(doc = "always so here"),
            "enable_implicit_namespace_pkgs": attr.bool(doc = "always so here"),
            "hub_name": attr.string(mandatory = True),
            "python_version": attr.string(mandatory = True),
            "requirements_by_platform": attr.label_keyed_string_dict(doc = "not read: `requirements_lock` has all wheels"),
            "requirements_lock": attr.label(mandatory = True),
            "target_platforms": attr.string_list(doc = "always those of _MACHINES here"),
        }),
    },
)
