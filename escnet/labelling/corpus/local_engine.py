"""Units labelled on this machine, in this process or in worker processes of which one that dies is replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from escnet.command_line import one_line
from escnet.labelling.corpus.labeller import DeviceLostError, Job, UnitLabeller
from escnet.labelling.corpus.plan import Place, unit_at
from escnet.labelling.corpus.records import Record
from escnet.labelling.corpus.units import UnreadableUnitError
from escnet.worker_pool import start_worker, worker_context

Told = Callable[[Record | UnreadableUnitError], None]
# Deaths of one worker after another before it has loaded the model; later ones are bounded by `Job.attempts`.
_FAILED_STARTS = 3


class WorkersError(RuntimeError):
    """Workers die before they can work, or fail in a way that is no fault of a picture."""


def label_here(job: Job, units: Iterable[Place], tell: Told) -> None:
    """Label units in this process.

    Args:
        job: what to do.
        units: of the plan, in the order in which they are labelled.
        tell: is told the record of each unit, or why its source could not be read.

    Raises:
        VocabularyError, ConfigError, WeightsError, DiskFullError, DeviceLostError: as `UnitLabeller` does.
    """
    labeller = UnitLabeller(job)
    for place in units:
        tell(_answer(labeller, job, place))


def label_in_processes(job: Job, units: Iterable[Place], workers: int, tell: Told) -> None:
    """Label units in worker processes, each with a model of its own; a unit whose worker dies is tried again.

    Args:
        job, units, tell: as for `label_here`.
        workers: how many processes.

    Raises:
        WorkersError: they die while they load the model.
        VocabularyError, ConfigError, WeightsError, DiskFullError: as in this process.
    """
    pool = _Pool(job, iter(units), workers)
    try:
        for answer in pool.answers():
            tell(answer)
    finally:
        pool.kill()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    place: Place | None = None
    is_ready: bool = False


class _Pool:
    """Worker processes, and the units that each of them has."""

    def __init__(self, job: Job, units: Iterator[Place], workers: int) -> None:
        self._job = job
        self._units = units
        self._again: deque[Place] = deque()
        self._context = worker_context(__name__)
        self._failed_starts = 0
        self._workers = [self._start() for _ in range(workers)]

    def answers(self) -> Iterator[Record | UnreadableUnitError]:
        """What is to be told, until all units are labelled."""
        while self._workers:
            ready = wait([worker.connection for worker in self._workers])
            for worker in [worker for worker in self._workers if worker.connection in ready]:
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    self._replace(worker)
                    continue
                if isinstance(message, Record | UnreadableUnitError):
                    worker.place = None
                    yield message
                elif isinstance(message, BaseException):
                    raise message
                worker.is_ready, self._failed_starts = True, 0
                self._give(worker)

    def kill(self) -> None:
        """End all processes at once; what they have not finished, they have not begun."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._job, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _give(self, worker: _Worker) -> None:
        """Give a worker its next unit, or let it go."""
        worker.place = self._again.popleft() if self._again else next(self._units, None)
        if worker.place is None:
            self._workers.remove(worker)
        # One that has died meanwhile is found by the next `recv`.
        with suppress(OSError):
            worker.connection.send(worker.place)

    def _replace(self, worker: _Worker) -> None:
        """Start another worker in the place of one that has died."""
        worker.process.join()
        if worker.place is not None:
            self._again.append(worker.place)
        if not worker.is_ready:
            self._failed_starts += 1
        if self._failed_starts >= _FAILED_STARTS:
            raise WorkersError(
                f"{_FAILED_STARTS} workers ended while they loaded the model (exit code {worker.process.exitcode}); "
                "there may be no memory for so many: take fewer --workers"
            )
        self._workers[self._workers.index(worker)] = self._start()


def _serve(job: Job, connection: Connection) -> None:
    """What a worker process does: load the model, then label what it is given until it is given None."""
    start_worker()
    try:
        labeller = UnitLabeller(job)
        connection.send("ready")
        while (place := connection.recv()) is not None:
            connection.send(_answer(labeller, job, place))
    except DeviceLostError:
        raise SystemExit(1) from None
    except Exception as error:
        connection.send(_sendable(error))


def _answer(labeller: UnitLabeller, job: Job, place: Place) -> Record | UnreadableUnitError:
    try:
        return labeller.label(unit_at(job.output, place.offset, place.length))
    except UnreadableUnitError as error:
        return error


def _sendable(error: Exception) -> Any:
    """An error as it is, or what can be sent of it to another process."""
    import pickle

    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return WorkersError(f"{type(error).__name__}: {one_line(error)}")
