"""Third stage: what is written about an image."""
