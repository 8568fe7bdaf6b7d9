"""Units labelled on a Ray cluster, by Ray Data: actors that each load the model once, and are restarted where they die.

Ray Data deals out the units, restarts actors and tries their tasks again; so it runs a unit at least once. That each is
there exactly once, whoever dies, is the doing of `labeller`: a unit that is finished is not labelled again, and its
file and record are renamed into place. The rows that flow back through Ray are the records alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from types import ModuleType
from typing import TYPE_CHECKING, Any

from escnet.labelling.corpus.plan import Place
from escnet.labelling.corpus.records import Record
from escnet.labelling.corpus.units import UnreadableUnitError
from escnet.labelling.pictures import LabellingError

if TYPE_CHECKING:
    from escnet.labelling.corpus.labeller import Job

# A task for each unit, as long as there are no more; then several units share one, since each costs the driver memory.
_MOST_TASKS = 10_000


def label_on_ray(
    job: Job,
    units: Iterable[Place],
    workers: int,
    tell: Callable[[Record | UnreadableUnitError], None],
    address: str | None = None,
) -> None:
    """Label units on a Ray cluster, all machines of which see the input and the output under the same paths.

    Args:
        job: what to do.
        units: of the plan, in the order in which they are dealt out.
        workers: how many actors; 0 for one on each GPU of the cluster, or on each CPU where it has none.
        tell: is told the record of each unit, or why its source could not be read.
        address: of the cluster; None for the one of RAY_ADDRESS, else for one on this machine alone.

    Raises:
        LabellingError: Ray is not installed, or the cluster cannot be reached.
        ray.exceptions.RayError: workers cannot be started, or fail in a way that is no fault of a picture.
    """
    ray = _ray()
    items = [place._asdict() for place in units]
    if not items:
        return
    _connect(ray, address)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    gpus = 0 if job.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
    workers = min(workers or gpus or int(ray.cluster_resources().get("CPU", 1)), len(items))
    answers = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_TASKS)).map_batches(
        _Actor,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    for row in answers.iter_rows():
        tell(UnreadableUnitError(row["error"]) if row["error"] else Record(**json.loads(row["record"])))


class _Actor:
    """A worker, as Ray Data calls it: a batch is the place of one unit."""

    def __init__(self, job: Job) -> None:
        from escnet.labelling.corpus.labeller import UnitLabeller

        self._job = job
        self._labeller = UnitLabeller(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        from escnet.labelling.corpus.labeller import DeviceLostError
        from escnet.labelling.corpus.plan import unit_at

        records, errors = [], []
        for offset, length in zip(batch["offset"].tolist(), batch["length"].tolist(), strict=True):
            try:
                record = self._labeller.label(unit_at(self._job.output, offset, length))
            except UnreadableUnitError as error:
                record, text = None, str(error)
            except DeviceLostError:
                # Ray starts another actor, in a process whose device may serve.
                os._exit(1)
            else:
                text = ""
            records.append(json.dumps(asdict(record) if record else None))
            errors.append(text)
        return {"record": records, "error": errors}


def _ray() -> ModuleType:
    try:
        import ray
        import ray.data
    except ImportError:
        raise LabellingError("--engine ray needs Ray: pip install 'escnet[scale]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    if ray.is_initialized():
        return
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="warning",
            include_dashboard=False if not address else None,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise LabellingError(f"--address {address}: no Ray cluster answers ({str(error).splitlines()[0]})") from None
