"""`policy-manifest.yaml` as the choice of policies for Bazel (R-43): a module extension.

    policy_manifest = use_extension("@policy_engine//builder:manifest.bzl", "policy_manifest")
    policy_manifest.read(name = "chosen", manifest = "//:policy-manifest.yaml", wheels = "@pypi//:requirements.bzl")
    use_repo(policy_manifest, "chosen")

Then, in a BUILD file:

    load("@chosen//:policies.bzl", "POLICIES")

    policy_image(name = "image", policies = POLICIES)

A policy by path is the target of its directory; one by package is taken out of the wheel `@pypi//NAME`. Starlark has no
YAML, so only the plain form is read: one scalar a line, lists of `- `. Whatever else YAML allows is refused by line;
`policy-builder validate` checks the same file in full.
"""

_KEYS = ["configuration", "libraries", "policies", "repository", "version", "wheels"]
_ENTRY_KEYS = ["name", "package", "path", "version"]

def _scalar(where, text):
    """Returns the text of a plain or quoted scalar."""
    text = text.strip()
    for quote in ["'", "\""]:
        if len(text) >= 2 and text.startswith(quote) and text.endswith(quote):
            return text[1:-1]
    if not text or text[0] in "{&*!|>%@`'\"":
        fail("%s: Bazel reads one plain value here, not %r; see builder/README.md" % (where, text))
    return text.split(" #")[0].strip()

def _flow_list(where, text):
    """Returns the items of `[a, b]`."""
    text = text.split(" #")[0].strip()
    if not (text.startswith("[") and text.endswith("]")):
        fail("%s: expected a list such as [a, b], not %r" % (where, text))
    return [_scalar(where, item) for item in text[1:-1].split(",") if item.strip()]

def parse_manifest(file, content):
    """Returns the repository's name and the entries of a manifest; fails by line.

    Args:
      file: how the manifest is called in messages.
      content: its text.

    Returns:
      A struct of `repository` and `policies`: dicts of each entry's keys, and `where` it is.
    """
    repository = "policy-engine"
    policies = []
    section = None
    for number, raw in enumerate(content.split("\n")):
        where = "%s:%d" % (file, number + 1)
        line = raw.rstrip()
        if not line.strip() or line.strip().startswith("#") or line == "---":
            continue
        if "\t" in line:
            fail("%s: has a tab; YAML is indented with spaces" % where)
        indented = line.startswith(" ") or line.startswith("- ")
        if not indented:
            key, colon, value = line.partition(":")
            if not colon or key not in _KEYS:
                fail("%s: %r is not a key of a manifest of policies; allowed: %s" % (where, key, ", ".join(_KEYS)))
            section = key
            value = value.strip()
            if key == "repository":
                repository = _scalar(where, value)
            elif key == "version":
                if _scalar(where, value) != "v1":
                    fail("%s: version is v1" % where)
            elif key == "policies" and value not in ["", "[]"] and not value.startswith("#"):
                fail("%s: policies is a list, one `- name: …` for each" % where)
            elif key != "policies" and value and not value.startswith("#"):
                _flow_list(where, value)
            continue
        if section != "policies":
            if not section or not line.strip().startswith("- "):
                fail("%s: expected a key, or an item `- …` of %s" % (where, section))
            continue
        field = line.strip()
        if field.startswith("- "):
            policies.append({"where": where})
            field = field[2:].strip()
            if field.startswith("{") and field.endswith("}"):
                for part in field[1:-1].split(","):
                    _add(where, policies[-1], part.strip())
                continue
        elif not policies:
            fail("%s: expected `- name: …`" % where)
        _add(where, policies[-1], field)
    for policy in policies:
        for key in ["name", "version"]:
            if key not in policy:
                fail("%s: lacks the required key %r" % (policy["where"], key))
    return struct(repository = repository, policies = policies)

def _add(where, policy, field):
    key, colon, value = field.partition(":")
    if not colon or key not in _ENTRY_KEYS:
        fail("%s: %r is not a key of a chosen policy; allowed: %s" % (where, key, ", ".join(_ENTRY_KEYS)))
    if key in policy:
        fail("%s: %r is here for the second time" % (where, key))
    policy[key] = _scalar(where, value)

def _normalized(name):
    return name.lower().replace("-", "_").replace(".", "_")

def _manifest_repository_impl(rctx):
    manifest = parse_manifest(str(rctx.attr.manifest), rctx.read(rctx.attr.manifest))
    root = str(rctx.attr.manifest).split("//")[0]
    directory = rctx.attr.manifest.package
    hub = str(rctx.attr.wheels).split("//")[0] if rctx.attr.wheels else None
    labels = []
    build = "load(%r, \"policy_from_wheel\")\n\npackage(default_visibility = [\"//visibility:public\"])\n" % str(rctx.attr._defs)
    for policy in manifest.policies:
        if "package" in policy:
            distribution, pinned, _ = policy["package"].partition("==")
            if not pinned or not hub:
                fail("%s: package is name==version, and the extension needs `wheels`" % policy["where"])
            target = "%s_%s" % (policy["name"], policy["version"])
            labels.append("@@%s//:%s" % (rctx.name, target))
            build += "\npolicy_from_wheel(name = %r, policy_name = %r, version = %r, wheel = %r)\n" % (
                target,
                policy["name"],
                policy["version"],
                "%s//%s" % (hub, _normalized(distribution)),
            )
            continue
        path = policy.get("path", "policies/%s/%s" % (policy["name"], policy["version"].replace(".", "_")))
        if path.startswith("/") or ".." in path.split("/"):
            fail("%s: %s is not in this Bazel module; name the label of its target in BUILD instead" % (policy["where"], path))
        labels.append("%s//%s" % (root, "/".join([part for part in [directory, path.rstrip("/")] if part])))
    rctx.file("BUILD.bazel", build)
    rctx.file("policies.bzl", "POLICIES = %r\n\nREPOSITORY = %r\n" % (labels, manifest.repository))

_manifest_repository = repository_rule(
    implementation = _manifest_repository_impl,
    attrs = {
        "manifest": attr.label(allow_single_file = True, mandatory = True),
        "wheels": attr.label(),
        "_defs": attr.label(default = "//builder:defs.bzl"),
    },
)

def _policy_manifest_impl(mctx):
    for module in mctx.modules:
        for tag in module.tags.read:
            _manifest_repository(name = tag.name, manifest = tag.manifest, wheels = tag.wheels)

policy_manifest = module_extension(
    implementation = _policy_manifest_impl,
    tag_classes = {
        "read": tag_class({
            "manifest": attr.label(mandatory = True),
            "name": attr.string(mandatory = True),
            "wheels": attr.label(doc = "`@pypi//:requirements.bzl` of the pip hub that has the packages"),
        }),
    },
)
