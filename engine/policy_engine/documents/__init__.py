"""Reading what people write: YAML with places, typed fields, quantities, secret references, diagnostics."""
