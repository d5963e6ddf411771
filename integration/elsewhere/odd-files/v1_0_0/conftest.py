"""Nothing to set up: it is here to stay out of the image."""
