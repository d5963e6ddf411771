"""The wheel of this directory as a repository, as `pip.parse` would make it of a lock that has it."""

_BUILD = """\
load("@rules_python//python:py_library.bzl", "py_library")

package(default_visibility = ["//visibility:public"])

py_library(
    name = "pkg",
    srcs = glob(["site-packages/**/*.py"]),
    data = glob(["site-packages/**"], exclude = ["**/*.py"]),
    imports = ["site-packages"],
    deps = ["{attrs}"],
)
"""

def _wheel_impl(rctx):
    for source in rctx.attr.sources:
        rctx.watch(source)
    done = rctx.execute([rctx.which("python3"), "-B", rctx.path(rctx.attr.tool), "."])
    if done.return_code:
        fail(done.stderr)
    rctx.symlink(done.stdout.strip(), "wheel.zip")  # extract() goes by the name
    rctx.extract("wheel.zip", output = "site-packages")
    rctx.file("BUILD.bazel", _BUILD.format(attrs = rctx.attr.attrs))

wheel = repository_rule(
    implementation = _wheel_impl,
    attrs = {
        "attrs": attr.label(mandatory = True),
        "sources": attr.label_list(allow_files = True),
        "tool": attr.label(mandatory = True, allow_single_file = True),
    },
)
