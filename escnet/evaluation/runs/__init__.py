"""Runs of an evaluation: one model on one dataset, in a folder that a killed one goes on with."""
