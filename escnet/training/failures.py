"""Failures of a run that are not faults of the program, each told in one line."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable

from escnet.command_line import UNUSABLE, one_line, refuse
from escnet.config_values import ConfigError
from escnet.data.errors import DatasetError
from escnet.data.images import ImageError
from escnet.pretrained.files import WeightsError
from escnet.training.config_checks import REMEDY, SHARED_MEMORY, mebibytes
from escnet.vocabulary import VocabularyError

# What PyTorch says when a loader's process cannot hand over a tensor, or was killed by the system for trying.
_EXHAUSTED = re.compile(
    r"unable to allocate shared memory|out of shared memory|Bus error|unable to write to file </torch"
)


GOES_ON = "stopped; the same command goes on from here"


def run_or_refuse(
    program: str,
    work: Callable[[], object],
    refused: tuple[type[Exception], ...],
    stopped: str = GOES_ON,
    code: int = UNUSABLE,
) -> int:
    """Do what a command is there for, and end it in one line where it cannot be done; returns the exit code.

    Args:
        program: its name.
        work: what it does.
        refused: errors that tell what is wrong with what was asked for, beside those that `explain_failure` knows.
        stopped: what is told after Ctrl-C.
        code: of what cannot be done.
    """
    try:
        work()
    except KeyboardInterrupt:
        return refuse(f"\n{program}", stopped, code=130)
    except Exception as error:
        explanation = error if isinstance(error, refused) else explain_failure(error)
        if explanation is None:
            raise
        return refuse(program, explanation, code)
    return 0


def leave_tracebacks_to_python() -> None:
    """Keep Detectron2's loop from logging the traceback of whatever ends it; where it is of use, Python shows it."""
    logging.getLogger("detectron2.engine.train_loop").addFilter(_has_no_traceback)


def _has_no_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info


def explain_failure(error: BaseException) -> str | None:
    """What to tell a user in one line; None where the error is a fault of the program, which needs its traceback.

    Args:
        error: raised in this process, or in a loader's process and again in this one.
    """
    if isinstance(error, ConfigError | DatasetError | ImageError | VocabularyError | WeightsError | OSError):
        return one_line(error)
    if not isinstance(error, RuntimeError) or not _EXHAUSTED.search(str(error)):
        return None
    free = f", of which {mebibytes(shutil.disk_usage(SHARED_MEMORY).free)} are free" if SHARED_MEMORY.is_dir() else ""
    return f"the processes that read images ran out of shared memory, {SHARED_MEMORY}{free}; {REMEDY}"
