"""Envoy's side of the promises: writing the configuration the engine needs, and checking one that others wrote."""
