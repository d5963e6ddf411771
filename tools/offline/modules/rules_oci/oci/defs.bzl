"""Own stand-in for `oci_image`, `oci_image_index`, `oci_load` and `oci_push` of rules_oci: same names, attributes and
outputs, as far as the policy engine uses them. Python's standard library only."""

_OCI_TOOL = Label("@policy_engine//builder:oci_tool")

_TOOL = {"_tool": attr.label(default = _OCI_TOOL, executable = True, cfg = "exec")}

def _oci_image_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    config = ctx.actions.declare_file(ctx.label.name + ".config.json")
    ctx.actions.write(config, json.encode({
        name: getattr(ctx.attr, name)
        for name in ("os", "architecture", "user", "workdir", "entrypoint", "cmd", "exposed_ports")
    }))
    args = ctx.actions.args()
    args.add("build")
    args.add_all(ctx.files.labels, before_each = "--labels")
    args.add_all(ctx.files.annotations, before_each = "--annotations")
    args.add_all(ctx.files.env, before_each = "--env")

    # After the options: not every argparse takes a list of arguments that options cut in two.
    args.add_all([out.path, config])
    args.add_all(ctx.files.tars)
    ctx.actions.run(
        executable = ctx.executable._tool,
        arguments = [args],
        inputs = [config] + ctx.files.tars + ctx.files.labels + ctx.files.annotations + ctx.files.env,
        outputs = [out],
        mnemonic = "OCIImage",
    )
    return DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))

_oci_image = rule(
    implementation = _oci_image_impl,
    attrs = {
        "annotations": attr.label(allow_files = True),
        "architecture": attr.string(mandatory = True),
        "cmd": attr.string_list(),
        "entrypoint": attr.string_list(),
        "env": attr.label(allow_files = True),
        "exposed_ports": attr.string_list(),
        "labels": attr.label(allow_files = True),
        "os": attr.string(mandatory = True),
        "tars": attr.label_list(allow_files = True),
        "user": attr.string(),
        "workdir": attr.string(),
    } | _TOOL,
)

def _key_values_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.write(out, "".join(["%s=%s\n" % pair for pair in ctx.attr.values.items()]))
    return DefaultInfo(files = depset([out]))

_key_values = rule(
    implementation = _key_values_impl,
    attrs = {"values": attr.string_dict()},
)

def oci_image(name, **kwargs):
    """An OCI layout directory, and `NAME.digest`: a file with the digest of its manifest.

    Args:
      name: of the layout.
      **kwargs: as in rules_oci; `annotations`, `env` and `labels` are a file of `key=value` lines or a dict.
    """
    for pairs in ("annotations", "env", "labels"):
        if type(kwargs.get(pairs)) == type({}):
            _key_values(name = "_%s_%s" % (name, pairs), values = kwargs[pairs])
            kwargs[pairs] = "_%s_%s" % (name, pairs)
    _oci_image(name = name, **kwargs)
    native.genrule(
        name = name + ".digest",
        srcs = [name],
        outs = [name + ".json.sha256"],
        cmd = "$(execpath %s) digest $< $@" % _OCI_TOOL,
        tools = [_OCI_TOOL],
        visibility = kwargs.get("visibility"),
    )

def _to_platforms_impl(_settings, attr):
    return {str(platform): {"//command_line_option:platforms": str(platform)} for platform in attr.platforms}

_to_platforms = transition(
    implementation = _to_platforms_impl,
    inputs = [],
    outputs = ["//command_line_option:platforms"],
)

def _oci_image_index_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    args = ctx.actions.args()
    args.add_all(["index", out.path])
    args.add_all(ctx.files.images, expand_directories = False)
    ctx.actions.run(
        executable = ctx.executable._tool,
        arguments = [args],
        inputs = ctx.files.images,
        outputs = [out],
        mnemonic = "OCIIndex",
    )
    return DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))

oci_image_index = rule(
    implementation = _oci_image_index_impl,
    attrs = {
        "images": attr.label_list(allow_files = True, cfg = _to_platforms, mandatory = True),
        "platforms": attr.label_list(doc = "`images` is built for each of them", mandatory = True),
        "_allowlist_function_transition": attr.label(default = "@bazel_tools//tools/allowlists/function_transition_allowlist"),
    } | _TOOL,
)

def _script(ctx, command, files, targets):
    """A script that runs `command` in its runfiles; {paths} in it are runfiles paths."""
    script = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.write(
        script,
        "#!/bin/bash\nset -euo pipefail\ncd \"${RUNFILES_DIR:-$0.runfiles}/%s\"\n%s\n" % (ctx.workspace_name, command),
        is_executable = True,
    )
    runfiles = ctx.runfiles(files).merge_all([target[DefaultInfo].default_runfiles for target in targets])
    return DefaultInfo(executable = script, runfiles = runfiles)

def _oci_load_impl(ctx):
    tarball = ctx.actions.declare_file(ctx.label.name + "/tarball.tar")
    ctx.actions.run(
        executable = ctx.executable._tool,
        arguments = ["tarball", ctx.file.image.path, tarball.path, ctx.file.repo_tags.path],
        inputs = [ctx.file.image, ctx.file.repo_tags],
        outputs = [tarball],
        mnemonic = "OCITarball",
    )
    loader = ctx.executable.loader
    command = "exec %s load --input %s" % (loader.short_path if loader else "docker", tarball.short_path)
    targets = [ctx.attr.loader] if loader else []
    return [
        _script(ctx, command, [tarball] + ([loader] if loader else []), targets),
        OutputGroupInfo(tarball = depset([tarball])),
    ]

oci_load = rule(
    implementation = _oci_load_impl,
    executable = True,
    attrs = {
        "image": attr.label(allow_single_file = True, mandatory = True),
        "loader": attr.label(allow_files = True, executable = True, cfg = "target"),
        "repo_tags": attr.label(allow_single_file = [".txt"], mandatory = True),
    } | _TOOL,
)

def _oci_push_impl(ctx):
    tool = ctx.executable._tool.short_path
    files = [ctx.file.image] + ctx.files.remote_tags
    command = "exec %s push %s%s%s \"$@\"" % (
        tool,
        ctx.file.image.short_path,
        "".join([" --repository '%s'" % ctx.attr.repository] if ctx.attr.repository else []),
        "".join([" --tags-file %s" % file.short_path for file in ctx.files.remote_tags]),
    )
    return _script(ctx, command, files, [ctx.attr._tool])

oci_push = rule(
    implementation = _oci_push_impl,
    executable = True,
    attrs = {
        "image": attr.label(allow_single_file = True, mandatory = True),
        "remote_tags": attr.label(allow_single_file = [".txt"]),
        "repository": attr.string(),
    } | _TOOL,
)
