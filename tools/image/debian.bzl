"""Pinned Debian packages of one architecture as a repository: `@debian_amd64//:NAME` are the archives of one, `:all` of all.

The lock gives each package's path and sha256. Debian's snapshot archive keeps every version for ever; the mirror that
./bazelw reads from the machine's apt configuration (DEBIAN_MIRROR) is asked first, since it is near, but it drops
superseded versions.
"""

_BUILD = """\
package(default_visibility = ["//visibility:public"])

filegroup(name = "all", srcs = {all})
"""

_PACKAGE = """
filegroup(name = "{name}", srcs = glob(["{name}/control.tar*", "{name}/data.tar*"]))
"""

def _archive(mirror, package):
    """Returns the root of the archive that `package` is in: `…/debian` or, for a security update, `…/debian-security`."""
    archive = package.get("archive", "debian")
    before, _, after = mirror.rpartition("/debian")
    return mirror if archive == "debian" else before + "/" + archive + after

def _debian_packages_impl(rctx):
    lock = json.decode(rctx.read(rctx.attr.lock))
    mirrors = [url.rstrip("/") for url in [rctx.getenv("DEBIAN_MIRROR"), lock["snapshot"]] if url]
    packages = lock["packages"].get(rctx.attr.architecture)
    if not packages:
        fail("%s has no Debian packages for %s; available: %s" % (
            rctx.attr.lock,
            rctx.attr.architecture,
            ", ".join(lock["packages"]),
        ))
    build = _BUILD.format(all = repr([":" + name for name in sorted(packages)]))
    for name, package in sorted(packages.items()):
        rctx.download_and_extract(
            [_archive(mirror, package) + "/" + package["path"] for mirror in mirrors],
            output = name,
            sha256 = package["sha256"],
            type = "deb",
        )
        build += _PACKAGE.format(name = name)
    rctx.file("BUILD.bazel", build)

debian_packages = repository_rule(
    implementation = _debian_packages_impl,
    attrs = {
        "architecture": attr.string(mandatory = True),
        "lock": attr.label(mandatory = True, allow_single_file = True),
    },
)
