"""Envoy's side of a stream: ext_proc session, action-to-reply translation, body modes, route mapping."""
