"""The tests with real Envoy, run with every version of it that is supported."""
