"""Segmenting films frame by frame: a label map for each, a film of overlays, a legend and a report."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from escnet.data.images import ImageError
from escnet.drawing.overlay import LEGEND_ENTRIES, PAPER, draw_legend, percent, tinted
from escnet.drawing.palette import palette
from escnet.labelling.engine import LabellingTask, Outcome
from escnet.labelling.finished import origin_of
from escnet.labelling.in_turn import label_in_turn
from escnet.labelling.pictures import FILM, FRAME_LABELS, LEGEND, REPORT
from escnet.labelling.video_files import VideoReader, VideoWriter
from escnet.predictor import Segmenter
from escnet.segmentation_result import SegmentationResult, classes_present
from escnet.vocabulary import Vocabulary
from escnet.word_lists import WordList

_WANTED = (FILM, FRAME_LABELS, LEGEND, REPORT)


class Frame(NamedTuple):
    """A frame of a film that is segmented.

    Attributes:
        index: its number among those that could be decoded, from 0.
        time: seconds from the first frame.
        result: what the model says of it.
    """

    index: int
    time: float
    result: SegmentationResult


@dataclass(frozen=True)
class VideoTask:
    """What is to be done with films.

    Attributes:
        labelling: films, words, folder and batch size as for `label_pictures`.
        every: each so many-th frame is segmented.
    """

    labelling: LabellingTask
    every: int = 1

    def origin(self, path: Path) -> dict[str, Any]:
        """How the labels of a film come about, for its report."""
        return origin_of(path, self.labelling.origin, self.labelling.vocabulary) | {"every": self.every}


def segment_video(
    segmenter: Segmenter,
    path: str | os.PathLike | VideoReader,
    words: WordList | str | Vocabulary,
    every: int = 1,
    batch_size: int = 1,
) -> Iterator[Frame]:
    """Segment the frames of a film, each by itself; a class has the same index, and colour, in all of them.

        for frame in segment_video(segmenter, "clip.mp4", ["road", "car", "sky"]):
            frame.time, frame.result.labels

    Args:
        segmenter: with the model.
        path: of the film, or the film opened.
        words: as for a call of the segmenter.
        every: segment each so many-th frame, the first included; of a film that is opened, it has its own.
        batch_size: frames that share a pass of the model, which are in memory together.

    Yields:
        The frames in order. What cannot be decoded is left out.

    Raises:
        ImageError: for a file that is no film, or has no frame that can be decoded.
        VocabularyError: for words that cannot be used.
    """
    if batch_size < 1:
        raise ValueError(f"the batch size is {batch_size}; a batch needs at least one frame")
    vocabulary = segmenter.vocabulary(words)
    if not isinstance(path, VideoReader):
        with VideoReader(Path(path), every) as reader:
            yield from segment_video(segmenter, reader, vocabulary, every, batch_size)
        return
    frames = iter(path)
    while batch := list(islice(frames, batch_size)):
        results = segmenter.batch([frame.pixels for frame in batch], vocabulary)
        for frame, result in zip(batch, results, strict=True):
            yield Frame(frame.index, frame.time, result)
    if not path.decoded:
        raise ImageError(f"{path.path}: no frame of it can be decoded; download it again, or convert it")


def label_videos(segmenter: Segmenter, task: VideoTask, say: Callable[[str], None]) -> Outcome:
    """Segment films in turn; one that cannot be read or written is noted, and the others go on.

    What is finished is skipped; a film at which an earlier call was stopped begins anew.

    Args:
        segmenter: with the model.
        task: what to do.
        say: is told a line for each film.

    Raises:
        LabellingError: the output folder has results that were made otherwise, or files that are no results.
        VocabularyError: a name that is too long for the text encoder.
        DiskFullError: there is no room for an output; what was finished stays, and the same call goes on.
    """

    def label(path: Path, stem: Path, _: Callable[[str], None]) -> str:
        return _label_video(segmenter, path, stem, task)

    return label_in_turn(task.labelling, _WANTED, task.origin, label, say)


def _label_video(segmenter: Segmenter, path: Path, stem: Path, task: VideoTask) -> str:
    """Write the files of one film, aside until all are complete; returns what to say of it."""
    labelling, names, frames = task.labelling, task.labelling.vocabulary.class_names, []
    areas, totals = np.zeros(len(names), np.int64), np.zeros(len(names))
    writer: VideoWriter | None = None
    with (
        VideoReader(path, task.every) as reader,
        tempfile.TemporaryDirectory(prefix=".labelling-", dir=labelling.output) as folder,
    ):
        made = Path(folder) / stem.name
        try:
            for frame in segment_video(segmenter, reader, labelling.vocabulary, task.every, labelling.batch_size):
                picture = np.asarray(draw_frame(frame.result))
                writer = writer or VideoWriter(Path(f"{made}{FILM}"), picture.shape[:2])
                writer.write(picture, frame.time)
                frame.result.save_labels(Path(f"{made}{FRAME_LABELS}") / f"{frame.index:06d}.png")
                frames.append(_frame_record(frame))
                flat = frame.result.labels.ravel()
                areas += np.bincount(flat, minlength=len(names))
                totals += np.bincount(flat, frame.result.scores.ravel(), minlength=len(names))
        finally:
            if writer is not None:
                writer.close()
        classes = classes_present(areas, totals, names)
        _legend_by_area(classes, len(names)).save(f"{made}{LEGEND}")
        report = task.origin(path) | {
            "height": frame.result.labels.shape[0],
            "width": frame.result.labels.shape[1],
            "frame_rate": reader.frame_rate,
            "frames_decoded": reader.decoded,
            "packets_damaged": reader.damaged,
            "codec": writer.codec,
            "frames": frames,
            "classes": classes,
        }
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        Path(f"{made}{REPORT}").write_text(text, encoding="utf-8")
        _replace(made, stem)
    damage = f"  {reader.damaged} damaged packets" if reader.damaged else ""
    largest = ", ".join(f"{entry['name']} {entry['fraction']:.1%}" for entry in classes[:3])
    return f"{report['width']}x{report['height']}  {len(frames)} of {reader.decoded} frames  {largest}{damage}"


def _replace(made: Path, stem: Path) -> None:
    """Put the files of a film in the place of those that are there, the report last."""
    Path(f"{stem}{REPORT}").unlink(missing_ok=True)
    for suffix in _WANTED:
        target = Path(f"{stem}{suffix}")
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(f"{made}{suffix}", target)


def _frame_record(frame: Frame) -> dict[str, Any]:
    """The number and time of a frame, and of its classes the shares and mean scores, for the report."""
    classes = frame.result.summary()["classes"]
    shares = {entry["name"]: round(entry["fraction"], 6) for entry in classes}
    scores = {entry["name"]: round(entry["mean_score"], 6) for entry in classes}
    return {"index": frame.index, "time": round(frame.time, 6), "shares": shares, "mean_scores": scores}


def draw_frame(result: SegmentationResult, alpha: float = 0.5) -> Image.Image:
    """A frame tinted by class, beside a legend of all classes in their order, which is the same for every frame.

    Of a vocabulary that is too long for it, the frame alone.
    """
    height, width = result.labels.shape
    colours = palette(len(result.class_names))
    picture = tinted(result.image, result.labels, colours, alpha, 1, max(1, round(min(height, width) / 360)))
    if len(result.class_names) > LEGEND_ENTRIES:
        return picture
    entries = _entries(result.class_names, range(len(colours)), [""] * len(colours))
    legend = draw_legend(entries, int(np.clip(height / 24, 13, 48)), max(height, 40))
    canvas = Image.new("RGB", (width + legend.width, max(height, legend.height)), PAPER)
    canvas.paste(picture, (0, 0))
    canvas.paste(legend, (width, 0))
    return canvas


def _legend_by_area(classes: Sequence[dict[str, Any]], count: int) -> Image.Image:
    """The legend of a whole film, the largest classes first."""
    largest = classes[:LEGEND_ENTRIES]
    names: list[str] = [""] * count
    for entry in largest:
        names[entry["id"]] = entry["name"]
    return draw_legend(_entries(names, [e["id"] for e in largest], [percent(e["fraction"]) for e in largest]), 20, 900)


def _entries(
    names: Sequence[str], ids: Sequence[int], figures: Sequence[str]
) -> list[tuple[tuple[int, int, int], str, str]]:
    """Entries of a legend, each class in its colour."""
    colours = palette(len(names))
    return [(tuple(colours[c].tolist()), names[c], text) for c, text in zip(ids, figures, strict=True)]
