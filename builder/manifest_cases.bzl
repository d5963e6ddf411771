"""What manifest.bzl makes of small manifests, as JSON for builder/policy_builder/commands/manifest_bzl_test.py."""

load(":manifest.bzl", "parse_manifest")

CASES = {
    "anchors": "version: v1\npolicies:\n  - &a\n    name: a\n",
    "block entries": "# top\n---\nversion: v1 # of the format\nrepository: \"team/engine\"\npolicies:\n  - name: a\n    version: 'v1.0.0'\n    path: p/a # here\n\n  - name: b\n    version: v2.0.0\n    package: b-policies==1.4.0\n",
    "entries at the margin": "version: v1\npolicies:\n- name: a\n  version: v1.0.0\n",
    "flow entries": "version: v1\nwheels: [dist, more]\npolicies:\n  - {name: a, version: v1.0.0}\n  - { name: b, version: v1.0.0, path: p/b }\n",
    "flow over lines": "version: v1\npolicies:\n  - {name: a,\n     version: v1.0.0}\n",
    "image": "version: v1\ncompression: none\ntags: [v1, 'stable']\nlabels:\n  com.example.team: gateway # us\n  \"a b\": c\nannotations: {org.example.url: https://example.test/a}\nenv: {A: '1', B: two}\nconfiguration:\n  - engine.yaml\npolicies: []\n",
    "key twice": "version: v1\npolicies:\n  - name: a\n    name: b\n",
    "label twice": "version: v1\nlabels:\n  a: b\n  a: c\npolicies: []\n",
    "many mistakes": "version: v2\npolicys: []\n  - name: z\npolicies:\n  - name: >\n    verson: v1.0.0\n  - {nam: a, version: v1.0.0}\n  - name: b\n    version: v1.0.0\n  - name: b\n    version: v1.0.0\n",
    "modules": "version: v1\npolicies:\n  - name: a\n    version: v1.0.0\n    module: policy_engine\n  - {name: b, version: v1.0.0, module: other, path: p/b}\n",
    "multi-line text": "version: v1\npolicies:\n  - name: >\n      a\n",
    "no compression": "version: v1\ncompression: zip\npolicies: []\n",
    "no item": "version: v1\npolicies:\n  name: a\n",
    "no list": "version: v1\npolicies: all\n",
    "no list of wheels": "version: v1\nwheels: dist\npolicies: []\n",
    "no mapping": "version: v1\nlabels: [a]\npolicies: []\n",
    "no name": "version: v1\npolicies:\n  - version: v1.0.0\n",
    "no policies": "version: v1\npolicies: [] # none\n",
    "no policies key": "version: v1\n",
    "no value": "version: v1\npolicies:\n  - name:\n    version: v1.0.0\n",
    "no version": "policies:\n  - name: a\n    version: v1.0.0\n",
    "no version of a policy": "version: v1\npolicies:\n  - name: a\n",
    "other lists": "version: v1\nlibraries:\n  - shared\nconfiguration: [engine.yaml]\npolicies:\n  - name: a\n    version: v1.0.0\n",
    "other version": "version: v2\npolicies: []\n",
    "policies twice": "version: v1\npolicies: []\npolicies: []\n",
    "tab": "version: v1\npolicies:\n\t- name: a\n",
    "text before any key": "  name: a\n",
    "unknown key": "version: v1\npolicys: []\n",
    "unknown key of a policy": "version: v1\npolicies:\n  - name: a\n    verson: v1.0.0\n",
}

def _parsed_manifests_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".json")
    results = {}
    for name, text in CASES.items():
        parsed = parse_manifest("policy-manifest.yaml", text)
        results[name] = {
            "error": parsed.error,
            "policies": parsed.policies,
            "repository": parsed.repository,
            "settings": parsed.settings,
            "text": text,
        }
    ctx.actions.write(out, json.encode(results))
    return DefaultInfo(files = depset([out]))

parsed_manifests = rule(implementation = _parsed_manifests_impl)
