"""Settings, chain files, policy manifests, file watching: everything that is read before it runs."""
