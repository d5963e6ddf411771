"""The builder: from chosen policies to an image that can be audited (R-40 to R-46).

discover (`choice`, `policy_source`) → validate → describe →
package (`layers`, `oci_layout`, `image`) → attest (`vouching`, `verification`). Used by the Bazel rules as tools, and
alone by the command `policy-builder`.
"""

__version__ = "0.1.0"
