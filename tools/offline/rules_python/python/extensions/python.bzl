"""The `python` extension of rules_python ≥ 1: accepts its tags; the interpreter is the machine's own.

Debian packages rules_python 0.22, whose extension knows neither `is_default` nor Python 3.13.
"""

def _hub_impl(rctx):
    rctx.file("BUILD.bazel")
    rctx.file("interpreters.bzl", "INTERPRETER_LABELS = {}\n")

_hub = repository_rule(implementation = _hub_impl)

def _python_impl(_mctx):
    _hub(name = "pythons_hub")

python = module_extension(
    implementation = _python_impl,
    tag_classes = {
        "toolchain": tag_class({
            "ignore_root_user_error": attr.bool(),
            "is_default": attr.bool(),
            "python_version": attr.string(),
        }),
    },
)
