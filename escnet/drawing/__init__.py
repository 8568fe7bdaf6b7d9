"""Drawings: overlays with legends, and sheets that show how a segmentation came about."""
