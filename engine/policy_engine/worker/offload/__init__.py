"""Work that grows with a body runs in helper processes, so that no body holds up the requests of others."""
