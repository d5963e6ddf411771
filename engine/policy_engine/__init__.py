"""Envoy policy engine: an `ext_proc` service that runs chains of versioned policies natively in Python."""

__version__ = "0.1.0"
