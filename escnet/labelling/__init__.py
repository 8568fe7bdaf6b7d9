"""Labelling of many pictures: files, folders and patterns in, overlays, label maps and reports out."""
