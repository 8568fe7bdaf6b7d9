"""One worker's work: a model that is loaded once, and units that it reads, segments and writes, one after the other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from escnet.command_line import one_line
from escnet.data.images import MAX_PIXELS
from escnet.labelling.corpus.attempts import Attempts
from escnet.labelling.corpus.contents import Picture, contents_of
from escnet.labelling.corpus.parts import FORMATS, writing_part
from escnet.labelling.corpus.records import LABELS, Record, read_record, record_path, write_record
from escnet.labelling.corpus.time_limit import TimeLimit
from escnet.labelling.corpus.units import Unit, UnreadableUnitError
from escnet.predictor import Segmenter
from escnet.pretrained.files import file_sha256
from escnet.safe_files import DiskFullError
from escnet.segmentation_result import SegmentationResult
from escnet.vocabulary import Vocabulary, VocabularyError

Answer = SegmentationResult | str
# After an error of the device itself, which it is not to be asked again in this process.
_DEVICE_ERRORS = tuple(e for e in (getattr(torch, "AcceleratorError", None),) if e is not None)
_TRIAL = np.zeros((32, 32, 3), np.uint8)


class DeviceLostError(RuntimeError):
    """The device has failed, and with it every later call of this process."""


@dataclass(frozen=True)
class Job:
    """What a worker has to know, besides its units; it can be sent to other processes and machines.

    Attributes:
        cfg: the configuration, with MODEL.WEIGHTS.
        device: as for `Segmenter.from_config`.
        vocabulary: the words.
        output: folder of the outputs, which all workers share.
        format: of the labels, one of `FORMATS`.
        batch_size: pictures that share a pass of the model.
        readers: threads that read and decode ahead of the model; 0 to read in turn with it.
        max_pixels: of a picture that is decoded; None for no limit.
        attempts: beginnings without end after which a unit, then a picture of it, is suspect.
        time_limit: seconds that a picture may take until its process is ended; None for no limit.
        retry_failures: of a finished unit, label what is recorded as a failure again.
    """

    cfg: Any
    device: str | None
    vocabulary: Vocabulary
    output: Path
    format: str = "parquet"
    batch_size: int = 1
    readers: int = 2
    max_pixels: int | None = MAX_PIXELS
    attempts: int = 3
    time_limit: float | None = None
    retry_failures: bool = False


class UnitLabeller:
    """Labels units with one model.

    Args:
        job: what to do.

    Raises:
        ConfigError, WeightsError: as `Segmenter.from_config`.
        VocabularyError: a name that is too long for the text encoder.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._segmenter = Segmenter.from_config(job.cfg, device=job.device)
        # What no picture can pass should end the run, not fill it with failures.
        self._segmenter(_TRIAL, job.vocabulary)

    def label(self, unit: Unit) -> Record:
        """Label a unit and write its file and its record, unless they are there.

        With `Job.retry_failures`, of a unit that is there only what has failed is labelled, and added to its file.

        Raises:
            UnreadableUnitError: its source cannot be read now.
            DiskFullError: there is no space left.
            DeviceLostError: this process cannot go on.
        """
        job = self._job
        found = read_record(job.output, unit.number)
        if found is not None and not (job.retry_failures and found.failures):
            return found
        attempts = Attempts(job.output, unit, job.attempts)
        is_suspect = attempts.is_suspect
        attempts.begin()
        try:
            with TimeLimit(attempts.note, job.time_limit) as limit:
                record = self._label(unit, found, attempts if is_suspect else None, limit)
        except (UnreadableUnitError, DiskFullError):
            attempts.excuse()
            raise
        write_record(job.output, record)
        attempts.end()
        return record

    def _label(self, unit: Unit, found: Record | None, attempts: Attempts | None, limit: TimeLimit) -> Record:
        """Write the file of a unit, with attempts picture by picture; gives its record.

        With the record that is there, what its file has is kept, unless the file is damaged.
        """
        job, start = self._job, time.perf_counter()
        contents = contents_of(unit)
        path = job.output / LABELS / f"{unit.name}{FORMATS[job.format]}"
        pictures, kept = contents.pictures, None
        if found is not None and file_sha256(path) == found.sha256:
            failed = {entry["key"] for entry in found.failures}
            pictures, kept = (picture for picture in pictures if picture.key in failed), path
        answers = self._one_by_one(pictures, attempts, limit) if attempts else self._in_batches(pictures, limit)
        failures = []

        def labelled() -> Iterator[tuple[Picture, SegmentationResult]]:
            for picture, answer in answers:
                if isinstance(answer, str):
                    failures.append({"key": picture.key, "source": picture.source, "reason": answer})
                else:
                    yield picture, answer

        results = labelled()
        first = list(islice(results, 1))
        if kept and not first:
            return replace(found, failures=failures)
        count = found.labelled if kept else 0
        with writing_part(path, job.format, job.vocabulary.class_names, record_path(job.output, unit.number)) as part:
            if kept:
                part.copy(kept)
            for picture, result in chain(first, results):
                part.add(picture.key, picture.source, result)
                count += 1
        return Record(
            unit.number,
            path.relative_to(job.output).as_posix(),
            count,
            failures,
            path.stat().st_size,
            file_sha256(path),
            contents.fault,
            round(time.perf_counter() - start + (found.seconds if kept else 0), 3),
        )

    def _in_batches(self, pictures: Iterator[Picture], limit: TimeLimit) -> Iterator[tuple[Picture, Answer]]:
        """Segment pictures in batches, while threads read those that follow."""
        limit.allow(self._job.batch_size)
        for batch in _read_ahead(pictures, self._read, self._job.readers, self._job.batch_size):
            readable = [pixels for _, pixels in batch if not isinstance(pixels, str)]
            answers = iter(self._segment(readable))
            limit.lift()
            for picture, pixels in batch:
                yield picture, pixels if isinstance(pixels, str) else next(answers)
            limit.allow(self._job.batch_size)
        limit.lift()

    def _one_by_one(
        self, pictures: Iterator[Picture], attempts: Attempts, limit: TimeLimit
    ) -> Iterator[tuple[Picture, Answer]]:
        """Segment pictures each by itself, noted before, so that one which ends the process is known."""
        for picture in pictures:
            if not attempts.begin_picture(picture.key):
                yield picture, self._why_passed_over(picture, attempts)
                continue
            limit.allow(1)
            pixels = self._read(picture)
            answer = pixels if isinstance(pixels, str) else self._segment([pixels])[0]
            limit.lift()
            yield picture, answer

    def _why_passed_over(self, picture: Picture, attempts: Attempts) -> str:
        times = f"{self._job.attempts} time" + "s" * (self._job.attempts > 1)
        if attempts.was_late(picture.key):
            return f"reading or segmenting it took longer than --time-limit allows, {times}"
        return f"the process ended {times} while it was read or segmented; it may have no memory for it"

    def _read(self, picture: Picture) -> np.ndarray | str:
        """The pixels of a picture, or why there are none."""
        try:
            return self._segmenter.preprocess(picture.fetch(), max_pixels=self._job.max_pixels)
        except Exception as error:  # whatever is wrong with one picture, the others go on
            return one_line(error)

    def _segment(self, pictures: Sequence[np.ndarray]) -> list[Answer]:
        """Segment pictures in one pass, or each by itself where that fails."""
        try:
            return list(self._segmenter.batch(pictures, self._job.vocabulary))
        except _DEVICE_ERRORS as error:
            raise DeviceLostError(one_line(error)) from error
        except (DiskFullError, VocabularyError):
            raise
        except Exception as error:
            if len(pictures) == 1:
                return [one_line(error)]
        return [answer for pixels in pictures for answer in self._segment([pixels])]


def _read_ahead(
    pictures: Iterator[Picture], read: Any, threads: int, size: int
) -> Iterator[list[tuple[Picture, np.ndarray | str]]]:
    """Batches of pictures and what was read of them; threads are ahead by two batches, and no more is in memory."""
    if not threads:
        while batch := list(islice(pictures, size)):
            yield [(picture, read(picture)) for picture in batch]
        return
    with ThreadPoolExecutor(threads, "reader") as pool:
        waiting: deque[tuple[Picture, Future]] = deque()
        try:
            while True:
                for picture in islice(pictures, 3 * size - len(waiting)):
                    waiting.append((picture, pool.submit(read, picture)))
                if not waiting:
                    return
                batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
                yield [(picture, pixels.result()) for picture, pixels in batch]
        finally:
            for _, future in waiting:
                future.cancel()


__all__ = ["DeviceLostError", "Job", "UnitLabeller", "UnreadableUnitError"]
