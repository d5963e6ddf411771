"""`./bazelw run //benchmarks`: the engine measured side by side with other ext_proc servers behind a real Envoy."""
