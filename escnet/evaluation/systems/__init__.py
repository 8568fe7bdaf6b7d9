"""Comparison of systems: what they know and what they cost, on the same data."""
