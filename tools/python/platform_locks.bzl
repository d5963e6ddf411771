"""The lock as `@locks//:linux_aarch64.txt` and so on, for `pip.parse`: its lines, after what pip must know of the platform.

By itself rules_python fetches wheels for the machine that builds, and an image for another platform is refused with them.
The stand-in of tools/offline reads none of this: it fetches for each platform.
"""

load("//builder:policy_builder/recipe.bzl", "GLIBC_MINOR", "MACHINES")

# Of the C library in images, down to the oldest that wheels name by version (PEP 600).
_GLIBC = ["manylinux_2_%d" % minor for minor in range(GLIBC_MINOR, 16, -1)] + ["manylinux2014", "linux"]

_CPUS = MACHINES.values()

def _platform_locks_impl(rctx):
    lock = rctx.read(rctx.attr.lock)
    version = rctx.attr.python_version.replace(".", "")
    for cpu in _CPUS:
        options = ["--platform=%s_%s" % (glibc, cpu) for glibc in _GLIBC]
        options += ["--implementation=cp", "--python-version=" + version]
        options += ["--abi=" + abi for abi in ["cp" + version, "abi3", "none"]]
        rctx.file("linux_%s.txt" % cpu, "\n".join(options) + "\n\n" + lock)
    rctx.file("BUILD.bazel", "exports_files(%r)\n" % ["linux_%s.txt" % cpu for cpu in _CPUS])

platform_locks = repository_rule(
    implementation = _platform_locks_impl,
    attrs = {
        "lock": attr.label(allow_single_file = True, mandatory = True),
        "python_version": attr.string(mandatory = True),
    },
)
