"""What the error messages of the data have in common."""

from __future__ import annotations

from collections.abc import Iterable


class DatasetError(ValueError):
    """A dataset that is unknown, or not on disk as expected. The message says what was looked for, and the remedy."""


def listed(values: Iterable[object], limit: int) -> str:
    """The first `limit` values, separated by commas, and dots if there are more."""
    values = list(values)
    return ", ".join(map(str, values[:limit])) + (", ..." if len(values) > limit else "")
