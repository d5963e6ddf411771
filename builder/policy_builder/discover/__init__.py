"""First stage: what was chosen, and the files, libraries and wheels that it needs."""
