"""Last stage: layers, the OCI layout, and where it is pushed."""
