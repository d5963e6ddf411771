"""`policy-manifest.yaml` as the choice of policies for Bazel (R-43): a module extension.

    policy_manifest = use_extension("@policy_engine//builder:manifest.bzl", "policy_manifest")
    policy_manifest.read(name = "acme_chosen", manifest = "//:policy-manifest.yaml", wheels = "@pypi//:requirements.bzl")
    use_repo(policy_manifest, "acme_chosen")

Names are those of all modules together, so each begins with that of its module. Then, in a BUILD file of the same module:

    load("@acme_chosen//:policies.bzl", "IMAGE", "POLICIES")

    policy_image(name = "image", manifest = IMAGE, policies = POLICIES)

`IMAGE` has what the manifest says of the image: `repository`, `configuration`, `image_tags`, `labels` and so on.

A policy by path is the target of its directory, in the manifest's own module or in `module`; one by package is taken out of the wheel `@pypi//NAME`. Starlark has no
YAML, so only the plain form is read: one scalar a line, lists of `- `. Whatever else YAML allows is refused by line;
`policy-builder validate` checks the same file in full.
"""

load(
    ":policy_builder/recipe.bzl",
    "COMPRESSIONS",
    "DEFAULT_REPOSITORY",
    "ENGINE_MODULE",
    "MANIFEST_ENTRY_KEYS",
    "MANIFEST_FORMAT",
    "MANIFEST_KEYS",
    "MANIFEST_LISTS",
    "MANIFEST_MAPPINGS",
    "MANIFEST_SCALARS",
)

_ENGINE_LABEL = Label("//:LICENSE")

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

def _pair(values, text):
    """Adds `key: value` to a mapping; returns what is wrong with it."""
    key, colon, value = text.partition(":")
    name, wrong = _scalar(key)
    if not colon or wrong:
        return "expected `key: value`, not %r" % text
    if name in values:
        return "%r is here for the second time" % name
    values[name], wrong = _scalar(value)
    return wrong

def _inline(text, opening, closing):
    """Returns the parts of `[a, b]` or `{a: b}` on one line; None for what is neither."""
    text = text.split(" #")[0].strip()
    if not (text.startswith(opening) and text.endswith(closing)):
        return None
    return [part.strip() for part in text[1:-1].split(",") if part.strip()]

def _top(key, value):
    """Returns the value of a key at the top of a manifest, and what is wrong with it."""
    value = "" if value.startswith("#") else value
    plain = value.split(" #")[0].strip()
    if key in MANIFEST_SCALARS:
        found, wrong = _scalar(value)
        if key == "version" and not wrong and found != MANIFEST_FORMAT:
            wrong = "version is " + MANIFEST_FORMAT
        if key == "compression" and not wrong and found not in COMPRESSIONS:
            wrong = "compression is one of %s" % ", ".join(sorted(COMPRESSIONS))
        return found, wrong
    if key == "policies":
        return None, (None if plain in ["", "[]"] else "policies is a list, one `- name: …` for each")
    if key in MANIFEST_MAPPINGS:
        found = {}
        parts = _inline(value, "{", "}") if plain else []
        if parts == None:
            return None, "expected a mapping such as {a: b}, not %r" % plain
        wrong = [one for one in [_pair(found, part) for part in parts] if one]
        return found, (wrong or [None])[0]
    parts = _inline(value, "[", "]") if plain else []
    if parts == None:
        return None, "expected a list such as [a, b], not %r" % plain
    read = [_scalar(part) for part in parts]
    wrong = [one[1] for one in read if one[1]]
    return [one[0] for one in read], (wrong or [None])[0]

def _entry(found, policies, section, text, where):
    """Reads an indented line of `section`; returns what is wrong with it.

    What belongs to a key that is wrong itself is not looked at.
    """
    if section and section != "policies" and (section not in MANIFEST_KEYS or found.get(section) == None):
        return None
    if section in MANIFEST_MAPPINGS:
        return _pair(found[section], text)
    if section in MANIFEST_LISTS and text.startswith("- "):
        item, wrong = _scalar(text[2:])
        found[section].append(item)
        return wrong
    if section != "policies":
        return "expected a key, or an item `- …` of %s" % section
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
      A struct of `repository`, `settings` (what else is said of the image, by key), `policies` (dicts of each entry's
      keys, and `where` it is) and `error` (a line for each finding, None when all is well).
    """
    found = {"repository": DEFAULT_REPOSITORY}
    seen = {}
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
            wrong = _entry(found, policies, section, line.strip(), where)
        else:
            section, colon, value = line.partition(":")
            if not colon or section not in MANIFEST_KEYS:
                wrong = "%r is not a key of a manifest of policies; allowed: %s" % (section, ", ".join(MANIFEST_KEYS))
            elif section in seen:
                wrong = "%r is here for the second time" % section
            else:
                seen[section] = True
                found[section], wrong = _top(section, value.strip())
        if wrong:
            errors.append("%s: %s" % (where, wrong))
    errors += _lacking(file, found, policies)
    return struct(
        error = "\n".join(errors) if errors else None,
        policies = policies,
        repository = found["repository"],
        settings = {key: found[key] for key in ["annotations", "compression", "configuration", "env", "labels", "tags"] if found.get(key)},
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

def _repository(module):
    """Returns what labels of a module begin with, as the module that has the manifest calls it."""
    return str(_ENGINE_LABEL).split("//")[0] if module == ENGINE_MODULE else "@" + module

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
        if "package" in policy and "module" in policy:
            errors.append("%s: a policy comes from a module or from a package, not from both" % policy["where"])
            continue
        if "package" in policy:
            distribution, pinned, _ = policy["package"].partition("==")
            if not pinned or not hub:
                errors.append("%s: package is name==version, and the extension needs `wheels`" % policy["where"])
                continue
            target = "%s_%s" % (policy["name"], policy["version"])
            labels.append("@@%s//:%s" % (rctx.name, target))
            wheel = "%s//%s" % (hub, _normalized(distribution))
            build += "\npolicy_from_wheel(name = %r, policy_name = %r, version = %r, wheel = %r, whl = %r)\n" % (
                target,
                policy["name"],
                policy["version"],
                wheel,
                wheel + ":whl",
            )
            continue
        path = policy.get("path", "policies/%s/%s" % (policy["name"], policy["version"].replace(".", "_")))
        if path.startswith("/") or ".." in path.split("/"):
            errors.append("%s: %s is not in this Bazel module; name the `module` that has it, with the path in there" % (policy["where"], path))
            continue
        if "module" in policy:
            labels.append("%s//%s" % (_repository(policy["module"]), path.rstrip("/")))
            continue
        labels.append("%s//%s" % (root, "/".join([part for part in [directory, path.rstrip("/")] if part])))
    if errors:
        fail("\n".join(errors))
    rctx.file("BUILD.bazel", build)
    image = {"repository": manifest.repository} | manifest.settings
    if "tags" in image:
        image["image_tags"] = image.pop("tags")
    if "configuration" in image:
        image["configuration"] = ["%s//%s:%s" % (root, directory, path) for path in image["configuration"]]
    rctx.file(
        "policies.bzl",
        "IMAGE = %r\n\nPOLICIES = %r\n\nREPOSITORY = %r\n" % (image, labels, manifest.repository),
    )

_manifest_repository = repository_rule(
    implementation = _manifest_repository_impl,
    attrs = {
        "manifest": attr.label(allow_single_file = True, mandatory = True),
        "wheels": attr.label(),
        "_defs": attr.label(default = "//builder:defs.bzl"),
    },
)

def _policy_manifest_impl(mctx):
    readers = {}
    for module in mctx.modules:
        for tag in module.tags.read:
            if tag.name in readers:
                fail("two manifests are called %s, of the modules %s and %s: give one another name, and use_repo that" % (
                    tag.name,
                    readers[tag.name],
                    module.name,
                ))
            readers[tag.name] = module.name
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
