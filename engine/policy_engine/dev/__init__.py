"""`policy-engine dev`: Envoy, an upstream and the engine with one command, for whoever writes a policy."""
