"""Health, metrics, tracing, admin pages, supervision and drain."""
