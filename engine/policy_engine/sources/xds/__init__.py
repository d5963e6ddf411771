"""Chains from a management server: the client side of the aggregated discovery service."""
