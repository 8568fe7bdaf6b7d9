"""Annotation files in JSON: read without running code, and named when they cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from escnet.data.errors import DatasetError


def read_json_file(path: Path, what: str) -> Any:
    """The contents of a JSON file.

    Args:
        path: of the file.
        what: it should hold, for the message.

    Raises:
        DatasetError: it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file of {what}; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON with {what} ({error}); download it again") from None


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """As `read_json_file`, of a file whose contents have to be an object.

    Raises:
        DatasetError: it is missing, unreadable, or no object.
    """
    contents = read_json_file(path, what)
    if not isinstance(contents, dict):
        raise DatasetError(f"{path}: holds a {type(contents).__name__}, where {what} are an object with named lists")
    return contents
