"""The policy discovery service: one directory of YAML, served to Envoy and to policy engines over xDS (R-22)."""
