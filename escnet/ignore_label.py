"""The id of pixels without a label, in training samples and in losses."""

from __future__ import annotations

# Ids of ignored pixels differ between datasets, and each is the id of a class in some other one. No class is negative.
IGNORE_LABEL = -1
