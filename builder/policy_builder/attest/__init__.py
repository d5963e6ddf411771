"""Fifth stage: what vouches for an image (signature, provenance, SBOM), how that is checked, how two images differ."""
