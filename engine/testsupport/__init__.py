"""What the engine's own tests share; never imported by the engine and never in an image."""
