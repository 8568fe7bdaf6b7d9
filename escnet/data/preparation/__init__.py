"""Bringing published datasets into the form that the benchmarks read; what the scripts in ``datasets`` share."""
