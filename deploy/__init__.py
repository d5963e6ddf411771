"""Ways of running the engine, and tests that render, start and check them."""
