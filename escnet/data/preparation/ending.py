"""How the scripts in ``datasets`` end: done, or one line that says why not."""

from __future__ import annotations

from collections.abc import Callable

from escnet.command_line import refuse
from escnet.data.errors import DatasetError
from escnet.data.images import ImageError

KEPT = "stopped; what is finished is kept, run again to continue"
# What is wrong with the data or with the disk.
UNUSABLE_DATA = (DatasetError, ImageError, OSError)


def prepare_or_refuse(
    name: str,
    work: Callable[[], object],
    refused: tuple[type[Exception], ...] = UNUSABLE_DATA,
    stopped: str = KEPT,
) -> int:
    """Do what a script is there for, and end it in one line where it cannot be done; returns the exit code.

    Args:
        name: of what is prepared.
        work: what is done.
        refused: errors that tell what is wrong with the data, the options or the disk.
        stopped: what is told after Ctrl-C.
    """
    try:
        work()
    except refused as error:
        return refuse(name, error, code=1)
    except KeyboardInterrupt:
        return refuse(f"\n{name}", stopped, code=130)
    return 0
