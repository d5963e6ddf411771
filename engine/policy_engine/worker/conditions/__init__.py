"""CEL conditions: compiled and type-checked when a chain is loaded, evaluated on each request."""
