"""Starts the real things around the engine (Envoy, upstream, JWKS server, containers) for tests and for the demo."""
