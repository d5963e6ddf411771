"""The settings of an engine, and where each of them came from."""
