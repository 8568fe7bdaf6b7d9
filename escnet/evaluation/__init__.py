"""Evaluation of label maps."""
