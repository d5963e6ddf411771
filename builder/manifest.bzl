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

load(":policy_builder/recipe.bzl", "DEFAULT_REPOSITORY", "MANIFEST_ENTRY_KEYS", "MANIFEST_FORMAT", "MANIFEST_KEYS")

def _scalar(text):
    """Returns the text of a plain or quoted scalar, and what is wrong with it."""
    text = text.strip()
    for quote in ["'", "\""]:
        if len(text) >= 2 and text.startswith(quote) and text.endswith(quote):
            return text[1:-1], None
    if not text or text[0] in "[{&*!|>%@`'\"":
        return None, "Bazel reads one plain value here, not %r; see builder/README.md" % text
    return text.split(" #")[0].strip(), None

def _add(policy, field):
    """Adds `key: value` to a chosen policy; returns what is wrong with it."""
    key, colon, value = field.partition(":")
    if not colon or key not in MANIFEST_ENTRY_KEYS:
        return "%r is not a key of a chosen policy; allowed: %s" % (key, ", ".join(MANIFEST_ENTRY_KEYS))
    if key in policy:
        return "%r is here for the second time" % key
    policy[key], wrong = _scalar(value)
    return wrong

def _top(key, value):
    """Returns the value of a key at the top of a manifest, where it is a scalar, and what is wrong with it."""
    value = "" if value.startswith("#") else value
    if key == "repository":
        return _scalar(value)
    if key == "version":
        version, wrong = _scalar(value)
        return version, wrong or (None if version == MANIFEST_FORMAT else "version is " + MANIFEST_FORMAT)
    if key == "policies":
        plain = value.split(" #")[0].strip()
        return None, (None if plain in ["", "[]"] else "policies is a list, one `- name: …` for each")
    plain = value.split(" #")[0].strip()
    if plain and not (plain.startswith("[") and plain.endswith("]")):
        return None, "expected a list such as [a, b], not %r" % plain
    return None, None

def _entry(policies, section, text, where):
    """Reads an indented line of `section`; returns what is wrong with it.

    What belongs to a key that is wrong itself is not looked at.
    """
    if section != "policies":
        if section and section not in MANIFEST_KEYS:
            return None
        if not section or not text.startswith("- "):
            return "expected a key, or an item `- …` of %s" % section
        return None
    if text.startswith("- "):
        policies.append({"where": where})
        text = text[2:].strip()
        if text.startswith("{"):
            if not text.endswith("}"):
                return "Bazel reads `{…}` on one line only; see builder/README.md"
            wrong = [_add(policies[-1], part.strip()) for part in text[1:-1].split(",")]
            return "; ".join([one for one in wrong if one])
    elif not policies:
        return "expected `- name: …`"
    return _add(policies[-1], text)

def parse_manifest(file, content):
    """Returns the repository's name and the entries of a manifest, or everything that is wrong, by line.

    Args:
      file: how the manifest is called in messages.
      content: its text.

    Returns:
      A struct of `repository`, `policies` (dicts of each entry's keys, and `where` it is) and `error` (a line for each
      finding, None when all is well).
    """
    found = {"repository": DEFAULT_REPOSITORY}
    policies = []
    section = None
    errors = []
    for number, raw in enumerate(content.split("\n")):
        line = raw.rstrip()
        if not line.strip() or line.strip().startswith("#") or line == "---":
            continue
        where = "%s:%d" % (file, number + 1)
        wrong = None
        if "\t" in line:
            wrong = "has a tab; YAML is indented with spaces"
        elif line.startswith(" ") or line.startswith("- "):
            wrong = _entry(policies, section, line.strip(), where)
        else:
            section, colon, value = line.partition(":")
            if not colon or section not in MANIFEST_KEYS:
                wrong = "%r is not a key of a manifest of policies; allowed: %s" % (section, ", ".join(MANIFEST_KEYS))
            elif section in found and section in ["policies", "version"]:
                wrong = "%r is here for the second time" % section
            else:
                found[section], wrong = _top(section, value.strip())
        if wrong:
            errors.append("%s: %s" % (where, wrong))
    errors += _lacking(file, found, policies)
    return struct(
        error = "\n".join(errors) if errors else None,
        policies = policies,
        repository = found["repository"],
    )

def _lacking(file, found, policies):
    """Returns where a manifest lacks something or has it twice, and what."""
    errors = ["%s: lacks the required key %r" % (file, key) for key in ["version", "policies"] if key not in found]
    first = {}
    for policy in policies:
        for key in ["name", "version"]:
            if key not in policy:
                errors.append("%s: lacks the required key %r" % (policy["where"], key))
        chosen = "%s %s" % (policy.get("name"), policy.get("version"))
        if policy.get("name") and policy.get("version") and chosen in first:
            errors.append("%s: policy %s is chosen twice; first at %s" % (policy["where"], chosen, first[chosen]))
        first.setdefault(chosen, policy["where"])
    return errors

def _normalized(name):
    return name.lower().replace("-", "_").replace(".", "_")

def _manifest_repository_impl(rctx):
    manifest = parse_manifest(str(rctx.attr.manifest), rctx.read(rctx.attr.manifest))
    if manifest.error:
        fail(manifest.error)
    root = str(rctx.attr.manifest).split("//")[0]
    directory = rctx.attr.manifest.package
    hub = str(rctx.attr.wheels).split("//")[0] if rctx.attr.wheels else None
    labels = []
    errors = []
    build = "load(%r, \"policy_from_wheel\")\n\npackage(default_visibility = [\"//visibility:public\"])\n" % str(rctx.attr._defs)
    for policy in manifest.policies:
        if "package" in policy:
            distribution, pinned, _ = policy["package"].partition("==")
            if not pinned or not hub:
                errors.append("%s: package is name==version, and the extension needs `wheels`" % policy["where"])
                continue
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
            errors.append("%s: %s is not in this Bazel module; name the label of its target in BUILD instead" % (policy["where"], path))
            continue
        labels.append("%s//%s" % (root, "/".join([part for part in [directory, path.rstrip("/")] if part])))
    if errors:
        fail("\n".join(errors))
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
