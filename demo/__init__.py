"""`./bazelw run //:demo`: Envoy, engine and an upstream on this machine, and a dozen requests through them."""
