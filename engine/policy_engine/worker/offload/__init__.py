"""Work that must not hold the event loop: calls that block in threads, work that grows with a body in helper processes."""
