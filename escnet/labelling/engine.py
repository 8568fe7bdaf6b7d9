"""Segmenting pictures in turn, the files of each batch written before the next; what is done already is skipped."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from escnet.annotations.georeference import no_data_id, read_georeference, write_placed_labels
from escnet.command_line import one_line
from escnet.data.images import MAX_PIXELS, ImageError
from escnet.labelling.finished import is_finished, origin_of
from escnet.labelling.pictures import (
    LABELS,
    OUTPUT_SUFFIXES,
    OVERLAY,
    PLACE,
    PROMPTS,
    REPORT,
    SCORES,
    WORLD,
    Pictures,
)
from escnet.predictor import SegmentationResult, Segmenter
from escnet.safe_files import DiskFullError, is_disk_full
from escnet.vocabulary import Vocabulary
from escnet.word_prompts import PromptError, WordPrompts

# What one picture may end with, where the others go on.
_FAILURES = (ImageError, PromptError, OSError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class LabellingTask:
    """What is to be done.

    Attributes:
        pictures: what `find_pictures` found.
        names: of the outputs of each.
        output: folder of the outputs.
        vocabulary: the words.
        origin: how the labels came about, for the reports: config, weights, options, value_range.
        draw_prompts: also draw correlation maps and pseudo prompts.
        save_scores: also write the probabilities of all classes; the segmenter has to compute them.
        overwrite: do again what is done already, in the place of whatever is there.
        value_range, max_pixels: as for `Segmenter`.
        batch_size: pictures that share a pass of the model, which changes no result.
        prompts: what is pointed at in some of the pictures, by the words of the vocabulary; such a picture has a pass
            of its own.

    Raises:
        ValueError: for a batch without pictures.
    """

    pictures: Pictures
    names: list[str]
    output: Path
    vocabulary: Vocabulary
    origin: Mapping[str, Any]
    draw_prompts: bool = False
    save_scores: bool = False
    overwrite: bool = False
    value_range: tuple[float, float] | None = None
    max_pixels: int | None = MAX_PIXELS
    batch_size: int = 1
    prompts: Mapping[Path, Mapping[str, WordPrompts]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"the batch size is {self.batch_size}; a batch needs at least one picture")


@dataclass
class Outcome:
    """What came of it: seconds of each picture that was segmented, how many were done before, and what failed, why."""

    seconds: list[float] = field(default_factory=list)
    done_before: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def label_pictures(segmenter: Segmenter, task: LabellingTask, say: Callable[[str], None]) -> Outcome:
    """Segment pictures in turn; one that cannot be read or written is noted, and the others go on.

    Args:
        segmenter: with the model.
        task: what to do.
        say: is told a line for each picture, and for each batch that has to be taken apart.

    Raises:
        LabellingError: the output folder has results that were made otherwise, or files that are no results.
        VocabularyError: a name that is too long for the text encoder.
        DiskFullError: there is no room for an output; what was finished stays, and the same call goes on.
    """
    outcome = Outcome(
        failures=[(entry, "does not exist, and matches nothing as a pattern") for entry in task.pictures.missing]
    )
    total = len(task.pictures.files)
    todo = [
        (number, path, task.output / name)
        for number, (path, name) in enumerate(zip(task.pictures.files, task.names, strict=True), start=1)
        if task.overwrite or not is_finished(task.output / name, _wanted(task), _origin(task, path))
    ]
    outcome.done_before = total - len(todo)
    for start in range(0, len(todo), task.batch_size):
        batch = todo[start : start + task.batch_size]
        answers = _segment(segmenter, task, [path for _, path, _ in batch], say)
        for (number, path, stem), answer in zip(batch, answers, strict=True):
            try:
                if isinstance(answer, Exception):
                    raise answer
                _write(answer.result, path, stem, answer.seconds, task)
            except DiskFullError:
                raise
            except _FAILURES as error:
                outcome.failures.append((str(path), one_line(error)))
                say(f"[{number}/{total}] {path}  FAILED")
                continue
            outcome.seconds.append(answer.seconds)
            say(f"[{number}/{total}] {path}  {_describe(answer.result)}  {answer.seconds:.2f} s")
    return outcome


class _Answer(NamedTuple):
    """The result of a picture, and the seconds that reading and segmenting it took, of a batch its share."""

    result: SegmentationResult
    seconds: float


def _segment(
    segmenter: Segmenter, task: LabellingTask, paths: Sequence[Path], say: Callable[[str], None]
) -> list[_Answer | Exception]:
    """Segment pictures in one pass; what is wrong with one stands in its place."""
    if len(paths) == 1:
        return [_segment_alone(segmenter, task, paths[0])]
    shared = [path for path in paths if path not in task.prompts]
    if len(shared) < len(paths):
        answers = iter(_segment(segmenter, task, shared, say) if shared else ())
        return [_segment_alone(segmenter, task, path) if path in task.prompts else next(answers) for path in paths]
    start = time.perf_counter()
    pictures = [_attempt(segmenter.preprocess, path, task.value_range, task.max_pixels) for path in paths]
    readable = [picture for picture in pictures if not isinstance(picture, Exception)]
    try:
        results = iter(segmenter.batch(readable, task.vocabulary))
    except (RuntimeError, MemoryError) as error:
        reason = one_line(error)
    else:
        seconds = (time.perf_counter() - start) / max(1, len(readable))
        return [p if isinstance(p, Exception) else _Answer(next(results), seconds) for p in pictures]
    say(f"a batch cannot be segmented in one pass ({reason}), and is segmented one by one")
    return [_segment_alone(segmenter, task, path) for path in paths]


def _segment_alone(segmenter: Segmenter, task: LabellingTask, path: Path) -> _Answer | Exception:
    start = time.perf_counter()
    reading = {"value_range": task.value_range, "max_pixels": task.max_pixels}
    result = _attempt(segmenter, path, task.vocabulary, prompts=task.prompts.get(path), **reading)
    return result if isinstance(result, Exception) else _Answer(result, time.perf_counter() - start)


def _attempt(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call gives, or the error with which it fails."""
    try:
        return call(*arguments, **options)
    except _FAILURES as error:
        # The frames of its traceback would keep tensors, for which there may be no room.
        return error.with_traceback(None)


def _wanted(task: LabellingTask) -> list[str]:
    return [OVERLAY, LABELS, *([PROMPTS] * task.draw_prompts), *([SCORES] * task.save_scores), REPORT]


def _origin(task: LabellingTask, path: Path) -> dict[str, Any]:
    """How the labels of a picture come about, for its report."""
    prompts = {word: prompts.record() for word, prompts in task.prompts.get(path, {}).items()}
    return origin_of(path, task.origin, task.vocabulary) | ({"prompts": prompts} if prompts else {})


def _write(result: SegmentationResult, path: Path, stem: Path, seconds: float, task: LabellingTask) -> None:
    """Write the files of one picture, the report last, so that its presence says that all are there.

    They are made aside: what ends the process meanwhile leaves none that a later call would take for a picture.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".labelling-", dir=task.output) as folder:
            made = Path(folder) / stem.name
            result.save_overlay(f"{made}{OVERLAY}")
            no_data = _write_labels(result, path, Path(f"{made}{LABELS}"))
            if task.draw_prompts:
                result.save_prompts(f"{made}{PROMPTS}")
            if task.save_scores:
                result.save_class_scores(f"{made}{SCORES}")
            contents = {**_origin(task, path), "seconds": round(seconds, 3), **no_data, **result.summary()}
            text = json.dumps(contents, indent=2, ensure_ascii=False) + "\n"
            Path(f"{made}{REPORT}").write_text(text, encoding="utf-8")
            wanted = [suffix for suffix in (WORLD, PLACE) if Path(f"{made}{suffix}").is_file()] + _wanted(task)
            Path(f"{stem}{REPORT}").unlink(missing_ok=True)
            # What was made in another way, and is not made now, would be taken for a part of this result.
            for suffix in set(OUTPUT_SUFFIXES).difference(wanted) if task.overwrite else ():
                Path(f"{stem}{suffix}").unlink(missing_ok=True)
            for suffix in wanted:
                os.replace(f"{made}{suffix}", f"{stem}{suffix}")
    except (OSError, RuntimeError) as error:
        if is_disk_full(error):
            raise DiskFullError(f"{path}: its results are not written, No space left on device") from error
        raise


def _write_labels(result: SegmentationResult, path: Path, file: Path) -> dict[str, int]:
    """Write the label map of a picture, and where it lies if the picture says that; what the report says of no data."""
    place = read_georeference(path)
    if place is None:
        result.save_labels(file)
        return {}
    classes = len(result.class_names)
    write_placed_labels(file, result.labels, classes, place)
    return {} if place.empty is None else {"no_data": no_data_id(classes)}


def _describe(result: SegmentationResult) -> str:
    """The size of a picture, the three largest classes in it, and how many words were left, if not all."""
    summary = result.summary()
    largest = [f"{entry['name']} {entry['fraction']:.1%}" for entry in summary["classes"][:3]]
    words, considered = summary["words"], summary["words_considered"]
    left = f"  ({considered} of {words} words considered)" if considered < words else ""
    return f"{summary['width']}x{summary['height']}  {', '.join(largest)}{left}"
