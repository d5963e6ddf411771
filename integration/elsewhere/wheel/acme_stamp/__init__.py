"""Policies of another team, published as a wheel."""
