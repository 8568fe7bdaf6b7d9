"""Annotations of annotation tools, read, painted as label maps and written as a dataset ``folder:PATH``."""
