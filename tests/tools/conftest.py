"""What the tests of several tools share."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def cells() -> Callable[[str, str], list[list[str]]]:
    """The rows of the table below a title in what a tool has printed."""

    def find(output: str, title: str) -> list[list[str]]:
        rows: list[list[str]] = []
        for line in output[output.index(title) :].strip().splitlines()[4:]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        return rows

    return find
