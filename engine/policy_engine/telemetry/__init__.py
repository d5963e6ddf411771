"""What people and machines are told about an engine: logs, metrics, spans, history, the admin page."""
