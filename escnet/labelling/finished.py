"""Whether what a call would write is there already, made in the same way, so that it is neither made again nor lost."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from escnet.labelling.pictures import REPORT, LabellingError
from escnet.vocabulary import Vocabulary

# What each report says, and what some do; in all of it a new call has to agree with what is there.
_SAID = ("image", "config", "weights", "options", "value_range", "class_names", "background", "templates")
_SAID_BY_SOME = ("prompts", "model", "model_sha256", "tiling", "every")
_REMEDY = "choose another --output, or replace it with --overwrite"


def origin_of(path: Path, origin: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """How the labels of a file come about, for its report: the file, what a call says, and the words."""
    return {
        "image": str(path),
        **origin,
        "class_names": list(vocabulary.class_names),
        "background": list(vocabulary.background),
        "templates": list(vocabulary.templates),
    }


def is_finished(stem: Path, wanted: Sequence[str], ours: Mapping[str, Any]) -> bool:
    """Whether all that is wanted is there, and its report agrees.

    Args:
        stem: what the names of the outputs begin with.
        wanted: their ends, that of the report among them; those of folders too.
        ours: what the report has to say, from `origin_of`.

    Raises:
        LabellingError: what is there was made otherwise, or not by a labelling, and would be lost.
    """
    there = [suffix for suffix in wanted if _is_there(Path(f"{stem}{suffix}"), suffix)]
    if not there:
        return False
    report = Path(f"{stem}{REPORT}")
    if not report.is_file():
        raise LabellingError(f"{stem}{there[0]}: is there, but no {report.name}, as beside a result; {_REMEDY}")
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not set(_SAID) <= set(found):
        raise LabellingError(f"{report}: is there, but is no report of a labelling; {_REMEDY}")
    # One file may be named from here or from the root; tuples come back as lists.
    found["image"] = os.path.abspath(str(found["image"]))
    expected = json.loads(json.dumps(dict(ours))) | {"image": os.path.abspath(ours["image"])}
    differing = [key for key in (*_SAID, *_SAID_BY_SOME) if found.get(key) != expected.get(key)]
    if differing:
        raise LabellingError(f"{report}: was made with other {', '.join(differing)}; {_REMEDY}")
    return there == list(wanted)


def _is_there(path: Path, suffix: str) -> bool:
    """Whether there is the file or, for an end without a dot, the folder."""
    return path.is_file() if "." in suffix else path.is_dir()
