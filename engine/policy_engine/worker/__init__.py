"""Chain execution: registry, chain compiler, executor, conditions, parameter validation. Knows no Envoy types."""
