"""Servers to compare with: ext_proc without policies, each written as the gRPC documentation of its kind writes it."""
