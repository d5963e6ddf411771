"""Work that must not hold the event loop: blocking calls in threads, work that grows with a body in helpers."""
