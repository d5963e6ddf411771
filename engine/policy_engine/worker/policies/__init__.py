"""What a policy is: its manifest, code, parameters and construction."""
