"""Checks of an operator's own Envoy configuration."""
