"""The test kit: real chains in the real engine, with Envoy's part played in memory. Authors import `sdk.testing`."""
