"""Chains: what a configuration asks for, compiled, and run on a request."""
