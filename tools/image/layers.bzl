"""Image layers, made with the Python toolchain only, so that they build without a tar toolchain.

`deb_layer` and `files_layer` are rules; the functions are what other rules (builder/defs.bzl) make layers with.
"""

load("@rules_python//python:py_info.bzl", "PyInfo")
load(
    "//builder:policy_builder/recipe.bzl",
    "COMPRESSION",
    "COMPRESSIONS",
    "SITE_PACKAGES",
    "wheel_belongs_in_image",
)

# What every rule that declares layers has: the tool, and the Python of images, which compiles the modules in them.
LAYER_TOOL = {
    "_interpreter": attr.label(default = "//tools/image:interpreter", allow_single_file = True, cfg = "exec"),
    "_layer_tool": attr.label(default = "//builder:layers", executable = True, cfg = "exec"),
}

# Architectures of images, as OCI calls them, by the setting that chooses.
ARCHITECTURE = select({
    Label("@platforms//cpu:aarch64"): "arm64",
    "//conditions:default": "amd64",
})

def _deb_layer_impl(ctx):
    # The history of an image has the file's name, which must not depend on the target's.
    out = ctx.actions.declare_file(ctx.label.name.removesuffix("." + ctx.attr.compression) + COMPRESSIONS[ctx.attr.compression])
    args = ctx.actions.args()
    args.add("debs")
    args.add(out)
    args.add(ctx.file._interpreter.path)
    args.add_all(ctx.files.packages)
    ctx.actions.run(
        executable = ctx.executable._layer_tool,
        arguments = [args],
        inputs = ctx.files.packages + [ctx.file._interpreter],
        outputs = [out],
        mnemonic = "DebianLayer",
        progress_message = "Unpacking Debian packages into %{output}",
    )
    return DefaultInfo(files = depset([out]))

deb_layer = rule(
    implementation = _deb_layer_impl,
    doc = "The base layer: Debian packages, unpacked.",
    attrs = {
        "compression": attr.string(default = COMPRESSION, values = COMPRESSIONS.keys()),
        "packages": attr.label_list(allow_files = True, mandatory = True),
    } | LAYER_TOOL,
)

def _deb_interpreter_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    args = ctx.actions.args()
    args.add("interpreter")
    args.add(out.path)
    args.add_all(ctx.files.packages)
    ctx.actions.run(
        executable = ctx.executable._layer_tool,
        arguments = [args],
        inputs = ctx.files.packages,
        outputs = [out],
        mnemonic = "ImagePython",
        progress_message = "Unpacking the Python of images",
    )
    return DefaultInfo(files = depset([out]))

deb_interpreter = rule(
    implementation = _deb_interpreter_impl,
    doc = "The Python of images, of the machine that builds: it compiles the modules in layers.",
    attrs = {
        "packages": attr.label_list(allow_files = True, mandatory = True),
        "_layer_tool": LAYER_TOOL["_layer_tool"],
    },
)

def owner_of(label):
    """Returns whose a file is: a package of some repository, named alike whichever of them is the main one.

    Args:
      label: of the target that makes the file, or of the file where it is a source.
    """
    return "%s//%s" % (label.repo_name, label.package)

def _runfiles_path(ctx, file):
    """Returns the path of `file` below a runfiles tree, as `imports` of Python libraries are written."""
    return ctx.workspace_name + "/" + file.short_path if not file.owner.repo_name else file.short_path.removeprefix("../")

def python_entries(ctx, targets, directory = SITE_PACKAGES):
    """Returns manifest entries that install Python libraries with all they depend on, as an installer would.

    The `owner` of an entry is the package that it comes from, as owner_of() names it: one for each wheel, since a wheel is
    a repository.

    Every file below an import root is placed relative to that root; files below none (an interpreter) are left out, and
    what no import leads to.

    Args:
      ctx: the rule's context.
      targets: targets with PyInfo.
      directory: where they go in the image.

    Returns:
      Structs of `path` (in the image), `file` and `owner`.
    """
    roots = {}
    files = []
    for target in targets:
        roots.update({root: True for root in target[PyInfo].imports.to_list()})
        files += [target[PyInfo].transitive_sources, target[DefaultInfo].default_runfiles.files]
    entries = {}
    for file in depset(transitive = files).to_list():
        path = _runfiles_path(ctx, file)
        parts = path.split("/")
        for length in range(len(parts) - 1, 0, -1):
            if "/".join(parts[:length]) in roots:
                if not wheel_belongs_in_image("/".join(parts[length:])):
                    break
                entries[file] = struct(
                    path = "/".join([directory] + parts[length:]),
                    file = file,
                    owner = owner_of(file.owner),
                )
                break
    return entries.values()

def declare_layer(ctx, name, entries, compression = COMPRESSION):
    """Declares the action that writes a layer of files; the rule has LAYER_TOOL among its attributes.

    Args:
      ctx: the rule's context.
      name: of the tar, without its suffix.
      entries: structs of `path` (in the image) and `file`; an empty directory has None for its file, and the files of a
        tree go below the path.
      compression: a key of COMPRESSIONS.

    Returns:
      The tar.
    """
    out = ctx.actions.declare_file(name + COMPRESSIONS[compression])
    manifest = ctx.actions.declare_file(name + ".manifest.json")
    files = [entry.file for entry in entries if entry.file]
    ctx.actions.write(manifest, json.encode([
        {"directory": True, "path": entry.path} if not entry.file else {
            "tree" if entry.file.is_directory else "source": entry.file.path,
            "path": entry.path,
        }
        for entry in entries
    ]))
    ctx.actions.run(
        executable = ctx.executable._layer_tool,
        arguments = ["files", out.path, ctx.file._interpreter.path, manifest.path],
        inputs = [manifest, ctx.file._interpreter] + files,
        outputs = [out],
        mnemonic = "ImageLayer",
        progress_message = "Writing layer %{output}",
    )
    return out

def _files_layer_impl(ctx):
    entries = []
    for target, path in ctx.attr.files.items():
        (file,) = target[DefaultInfo].files.to_list()
        entries.append(struct(path = path, file = file))
    return DefaultInfo(files = depset([declare_layer(ctx, ctx.label.name, entries)]))

files_layer = rule(
    implementation = _files_layer_impl,
    doc = "A layer of single files.",
    attrs = {
        "files": attr.label_keyed_string_dict(
            allow_files = True,
            doc = "label of one file: its path in the image",
            mandatory = True,
        ),
    } | LAYER_TOOL,
)
