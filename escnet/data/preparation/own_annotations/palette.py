"""The names of the ids or colours of masks, as JSON or as lines of a text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from escnet.data.errors import DatasetError
from escnet.data.json_files import read_json_object
from escnet.data.preparation.own_annotations.annotated import refuse_twice

_FORMS = (
    'a palette is JSON, {"NAME": [R, G, B]} or {"NAME": ID}, or a text with lines NAME R G B, NAME: ID, or NAME alone, '
    "of which line i, counted from 0, names the id i"
)
# "road 128 64 128" and "road: 128, 64, 128"; CVAT's labelmap.txt has "road:128,64,128::".
_COLOUR_LINE = re.compile(r"(.*?\S)\s*[\s:=,]\s*(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s:]*")
# A blank alone does not do: "class 1" is a name.
_ID_LINE = re.compile(r"(.*?\S)\s*[:=\t]\s*(\d+)\s*")
_HIGHEST_ID = 65535


class Palette(NamedTuple):
    """Classes, and what stands for each.

    Attributes:
        names: in the order of the file.
        values: ids, or colours as 65536 R + 256 G + B.
        is_of_colours: which of the two.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    is_of_colours: bool


def read_palette(path: Path) -> Palette:
    """Read a palette.

    Raises:
        DatasetError: it cannot be read, is in no known form, or has a name, an id or a colour twice.
    """
    if path.suffix.lower() == ".json":
        entries = [(name, _value(path, name, value)) for name, value in read_json_object(path, "a palette").items()]
    else:
        entries = _text_entries(path)
    if len({isinstance(value, tuple) for _, value in entries}) != 1:
        raise DatasetError(f"{path}: has {'ids as well as colours' if entries else 'no entry'}; {_FORMS}")
    names = tuple(" ".join(name.split()) for name, _ in entries)
    refuse_twice(path, "the name", names, "give each id or colour a name of its own")
    is_of_colours = isinstance(entries[0][1], tuple)
    refuse_twice(path, "the value", [str(value) for _, value in entries], "each id or colour has one name")
    for name, value in entries:
        if max(value if isinstance(value, tuple) else (0,)) > 255 or (isinstance(value, int) and value > _HIGHEST_ID):
            raise DatasetError(f"{path}: '{name}' has the value {value}; colours are 0..255, ids 0..{_HIGHEST_ID}")
    codes = (v[0] << 16 | v[1] << 8 | v[2] if isinstance(v, tuple) else v for _, v in entries)
    return Palette(names, tuple(codes), is_of_colours)


def _value(path: Path, name: str, value: Any) -> int | tuple[int, ...]:
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) not in (1, 3) or not all(type(number) is int and number >= 0 for number in numbers):
        raise DatasetError(f"{path}: '{name}' has the value {value}; {_FORMS}")
    return tuple(numbers) if isinstance(value, list) and len(numbers) == 3 else numbers[0]


def _text_entries(path: Path) -> list[tuple[str, int | tuple[int, ...]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); {_FORMS}") from None
    lines = [line for line in lines if not line.startswith("#")]
    for form in (_COLOUR_LINE, _ID_LINE):
        matches = [form.fullmatch(line) for line in lines]
        if all(matches):
            groups = [match.groups() for match in matches if match]
            return [(name, tuple(map(int, rest)) if len(rest) > 1 else int(rest[0])) for name, *rest in groups]
        if any(matches):
            odd = next(line for line, match in zip(lines, matches, strict=True) if not match)
            raise DatasetError(f"{path}: has a line {odd!r} where others have numbers; {_FORMS}")
    return [(line.strip(), number) for number, line in enumerate(lines)]
