"""Health, metrics, admin pages, supervision and drain."""
