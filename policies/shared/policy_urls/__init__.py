"""Parts of URLs in policy parameters; see the modules."""
