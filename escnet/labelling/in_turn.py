"""Labelling files that take long each, in turn: what is finished is skipped, and a failure leaves the others alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from escnet.command_line import one_line
from escnet.data.images import ImageError
from escnet.labelling.engine import LabellingTask, Outcome
from escnet.labelling.finished import is_finished
from escnet.safe_files import DiskFullError, is_disk_full

_FAILURES = (ImageError, OSError, RuntimeError, MemoryError)


def label_in_turn(
    labelling: LabellingTask,
    wanted: Sequence[str],
    origin: Callable[[Path], Mapping[str, Any]],
    label: Callable[[Path, Path, Callable[[str], None]], str],
    say: Callable[[str], None],
) -> Outcome:
    """Label the files of a task.

    Args:
        labelling: the files, and what their outputs are called.
        wanted: the ends of the names of what is written of each, the report last.
        origin: how the labels of a file come about, for its report.
        label: writes the outputs of a file, which begin with the second argument, and returns what to say of it; it
            may tell more on the way.
        say: is told a line for each file.

    Raises:
        LabellingError: the output folder has results that were made otherwise, or files that are no results.
        VocabularyError: a name that is too long for the text encoder.
        DiskFullError: there is no room for an output; what was finished stays, and the same call goes on.
    """
    missing = [(entry, "does not exist, and matches nothing as a pattern") for entry in labelling.pictures.missing]
    outcome, total = Outcome(failures=missing), len(labelling.pictures.files)
    for number, (path, name) in enumerate(zip(labelling.pictures.files, labelling.names, strict=True), start=1):
        stem = labelling.output / name
        if not labelling.overwrite and is_finished(stem, wanted, origin(path)):
            outcome.done_before += 1
            continue
        start = time.perf_counter()
        try:
            line = label(path, stem, lambda text, n=number: say(f"[{n}/{total}] {text}"))
        except DiskFullError:
            raise
        except _FAILURES as error:
            if is_disk_full(error):
                raise DiskFullError(f"{path}: its results are not written, No space left on device") from error
            outcome.failures.append((str(path), one_line(error)))
            say(f"[{number}/{total}] {path}  FAILED")
            continue
        outcome.seconds.append(time.perf_counter() - start)
        say(f"[{number}/{total}] {path}  {line}  {outcome.seconds[-1]:.2f} s")
    return outcome
