"""From annotations to ``folder:PATH``: everything is checked, then label maps and photographs are written."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from escnet.data.errors import DatasetError
from escnet.data.folder import IGNORE_LABELS
from escnet.data.images import ImageError, write_labels
from escnet.data.preparation.bringing import bring
from escnet.data.preparation.finished_folders import is_finished, note_finished
from escnet.data.preparation.own_annotations.annotated import UNLABELLED, AnnotationSet
from escnet.data.preparation.own_annotations.formats import read_annotations
from escnet.data.preparation.own_annotations.matching import Match, digest, match_photographs
from escnet.data.preparation.own_annotations.painting import paint
from escnet.data.preparation.own_annotations.photographs import UPRIGHT, Photographs, turn_upright
from escnet.data.preparation.own_annotations.survey import (
    TRAIN,
    VALIDATION,
    ClassCount,
    Survey,
    count_classes,
    find_doubts,
)
from escnet.progress import progress_bar
from escnet.safe_files import replacing
from escnet.vocabulary import Vocabulary, VocabularyError
from escnet.worker_pool import worker_pool

DESCRIPTION = "import.json"
_CHUNK = 8


@dataclass(frozen=True)
class Import:
    """What is imported, and how.

    Attributes:
        annotations: file or folder.
        images: folder of the photographs.
        kind: format of the annotations, one of `formats.FORMATS`; None to find it.
        palette: names of the ids or colours of masks.
        background: class of unlabelled pixels; None for none, and they are ignored.
        validation: share of the images that is held out, below 1; 0 for none.
        seed: which ones.
        frame: in which images were annotated, where sizes cannot tell: "upright" or "stored".
        copy: copies of the photographs instead of links to them.
    """

    annotations: Path
    images: Path
    kind: str | None = None
    palette: Path | None = None
    background: str | None = None
    validation: float = 0.0
    seed: int = 0
    frame: str = UPRIGHT
    copy: bool = False


@dataclass(frozen=True)
class _Recipe:
    """How a label map is made; what a worker process is given."""

    ids: dict[str, int]
    unlabelled: int
    bits: int
    smaller_on_top: bool
    source: Path


@dataclass(frozen=True)
class _Contents:
    """What a finished folder says of itself."""

    names: tuple[str, ...]
    background: str | None
    validation: float
    seed: int
    frame: str
    copy: bool
    images: int
    sha256: str


def import_annotations(
    asked: Import, output: Path, workers: int = 0, tell: Callable[[str], None] = print
) -> list[ClassCount] | None:
    """Write annotations and their photographs as a dataset ``folder:PATH``, or as two, in "train" and "val".

    Args:
        asked: what is imported.
        output: the folder; it appears once it is complete. What a call that was stopped has made is gone on with.
        workers: processes; 0 for one on each core.
        tell: is given each warning.

    Returns:
        The images and pixels of each class and, last, of ignored pixels; None if it is there already.

    Raises:
        DatasetError, ImageError: something is missing or does not fit; nothing is written then.
        ValueError: the folder holds an import of something else.
        OSError: a file cannot be read or written.
    """
    output = output.expanduser().resolve()
    photographs = Photographs(asked.images.expanduser())
    annotations = read_annotations(asked.annotations.expanduser(), asked.kind, asked.palette, photographs)
    matches, warnings = match_photographs(annotations, photographs, asked.background is not None, asked.frame)
    names = _class_names(annotations, asked.background)
    parts = _split(matches, asked.validation, asked.seed)
    contents = _Contents(
        names,
        asked.background,
        asked.validation,
        asked.seed,
        asked.frame,
        asked.copy,
        len(matches),
        digest(matches, annotations),
    )
    if is_finished(output / DESCRIPTION, contents):
        return None
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DatasetError(f"{output}: holds files that are no import; choose another folder, or remove it")
    recipe = _recipe(annotations, names, asked.background)
    with worker_pool(workers or os.cpu_count() or 1, preload=__name__) as pool:
        surveys = list(_each(pool, partial(_survey, recipe), matches, "checked"))
        places = [parts[match.key] for match in matches]
        counts = count_classes(surveys, places, names, IGNORE_LABELS[recipe.bits])
        for warning in [*annotations.warnings, *warnings, *find_doubts(annotations, surveys, counts)]:
            tell(warning)
        unfinished = _unfinished(output, contents)
        jobs = [(match, _folder(unfinished, parts, match)) for match in matches]
        list(_each(pool, partial(_write, recipe, asked.copy), jobs, "written"))
    for folder in {folder for _, folder in jobs}:
        with replacing(folder / "classes.txt") as temporary:
            temporary.write_text(_lines_of(names), encoding="utf-8")
    if output.exists():
        output.rmdir()
    os.replace(unfinished, output)
    return counts


def _class_names(annotations: AnnotationSet, background: str | None) -> tuple[str, ...]:
    """The lines of classes.txt; the class of unlabelled pixels comes last, unless the annotations have it."""
    names = annotations.names
    if background is not None and background not in names:
        names = (*names, background)
    try:
        Vocabulary(names)
    except VocabularyError as error:
        raise DatasetError(f"{annotations.path}: {error}; rename the classes in the annotations") from error
    if len(names) > IGNORE_LABELS[16]:
        raise DatasetError(f"{annotations.path}: has {len(names)} classes; label maps hold {IGNORE_LABELS[16]}")
    return names


def _lines_of(names: Sequence[str]) -> str:
    """The text of classes.txt, which is also a word list: in one of a single line, commas separate classes."""
    lines = names if len(names) > 1 else [name.replace(",", "|") for name in names]
    return "".join(f"{line}\n" for line in lines)


def _split(matches: Sequence[Match], share: float, seed: int) -> dict[str, str]:
    """The part of each image by its key: "" for all without a validation. Each image is drawn by its own name."""
    keys = [match.key for match in matches]
    if not share:
        return dict.fromkeys(keys, "")
    if len(keys) < 2:
        raise DatasetError(
            f"--validation {share} holds out an image and leaves one, but there is {len(keys)}; leave it out"
        )
    count = max(1, min(len(keys) - 1, round(share * len(keys))))
    held_out = set(sorted(keys, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).hexdigest())[:count])
    return {key: VALIDATION if key in held_out else TRAIN for key in keys}


def _recipe(annotations: AnnotationSet, names: Sequence[str], background: str | None) -> _Recipe:
    bits = 8 if len(names) <= IGNORE_LABELS[8] else 16
    ids = {name: number for number, name in enumerate(names)}
    unlabelled = IGNORE_LABELS[bits] if background is None else ids[background]
    return _Recipe(ids, unlabelled, bits, annotations.smaller_on_top, annotations.path)


def _labels(recipe: _Recipe, match: Match) -> tuple[np.ndarray, Survey]:
    """The (H,W) label map of an image, upright, and what is in it."""
    try:
        painted = paint(match.annotated, match.frame.size, recipe.ids, recipe.smaller_on_top)
    except (DatasetError, ImageError):
        raise
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"{recipe.source}: {match.annotated.place}: a region cannot be drawn ({error}); correct it where it was "
            f"drawn, and export again"
        ) from error
    labels = np.where(painted.labels == UNLABELLED, recipe.unlabelled, painted.labels)
    ids, counts = np.unique(labels, return_counts=True)
    pixels = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return turn_upright(labels, match.frame.orientation), Survey(pixels, *painted[1:])


def _survey(recipe: _Recipe, match: Match) -> Survey:
    return _labels(recipe, match)[1]


def _write(recipe: _Recipe, copy: bool, job: tuple[Match, Path]) -> None:
    """Write a label map and bring its photograph, where a call that was stopped has not."""
    match, folder = job
    image = folder / "images" / f"{match.key}{match.photograph.suffix}"
    labels = folder / "labels" / f"{match.key}.png"
    if not labels.is_file():
        write_labels(labels, _labels(recipe, match)[0], recipe.bits)
    if not image.is_file():
        bring(match.photograph, image, copy)


def _each(
    pool: ProcessPoolExecutor | None, work: Callable[[Any], Any], jobs: Sequence[Any], what: str
) -> Iterator[Any]:
    """The results of all jobs in turn, with a progress bar.

    Raises:
        DatasetError: a worker process died.
    """
    results: Iterable[Any] = pool.map(work, jobs, chunksize=_CHUNK) if pool else map(work, jobs)
    try:
        yield from progress_bar(results, total=len(jobs), desc=what, unit="image")
    except BrokenProcessPool as error:
        raise DatasetError(
            "a worker process died, maybe for want of memory; run again with fewer --workers, what is finished is kept"
        ) from error


def _folder(root: Path, parts: dict[str, str], match: Match) -> Path:
    return root / parts[match.key] if parts[match.key] else root


def _unfinished(output: Path, contents: _Contents) -> Path:
    """The folder that becomes the output: that of a call that was stopped, if it was to hold the same."""
    folder = output.with_name(f".{output.name}.unfinished")
    try:
        is_same = is_finished(folder / DESCRIPTION, contents)
    except ValueError:
        is_same = False
    if not is_same:
        shutil.rmtree(folder, ignore_errors=True)
        note_finished(folder / DESCRIPTION, contents)
    return folder
