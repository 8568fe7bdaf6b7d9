"""Training of one student by several teachers, each with images of its own (SAM-CLIP, sec. 3.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn

from escnet.training.tasks.configured import ConfiguredTask


class Teacher(ABC):
    """A frozen model, the images that it teaches with, and what a student is to learn of it.

    Attributes:
        name: of its loss.
        weight: of its loss.
        order: what the order of its images depends on, beside the numbers of processes and workers: a training goes on
            only where it is the same.
    """

    name: str
    weight: float = 1.0
    order: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def batches(self, start_iteration: int) -> Iterator[Any]:
        """This process's batches from an iteration on, without end."""

    @abstractmethod
    def parts(self, batch: Any) -> Iterator[tuple[Any, float]]:
        """A batch in parts that fit into memory, and the share of the batch that each of them is."""

    @abstractmethod
    def loss(self, student: nn.Module, part: Any) -> Tensor:
        """The mean loss () of a part, before `weight`."""

    def prepare(self) -> None:  # noqa: B027  not every teacher has anything to do
        """What is done once before a training that does not go on from a checkpoint."""

    def describe(self, batch: Any) -> list[str]:
        """Where the images of a batch are from."""
        return []

    def counts(self) -> dict[str, int]:
        """What is counted of the images of the whole training, of all processes."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold of it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Go on from what `state_dict` gave."""


class DistillationTask(ConfiguredTask):
    """One step has a batch of each teacher, with a backward pass of its own (or several, for parts of a batch).

    Args:
        cfg: the config, of the student and its training.
        teachers: on the student's device; at least one.
    """

    def __init__(self, cfg: CfgNode, teachers: Sequence[Teacher]) -> None:
        super().__init__(cfg)
        self.teachers = list(teachers)

    def batches(self, start_iteration: int) -> Iterator[list[Any]]:
        streams = [teacher.batches(start_iteration) for teacher in self.teachers]
        return map(list, zip(*streams, strict=True))

    def backward(self, batch: list[Any], scale: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        losses = {}
        for teacher, own in zip(self.teachers, batch, strict=True):
            total: Tensor | float = 0.0
            for part, share in teacher.parts(own):
                with self.model.autocast():
                    loss = share * teacher.weight * teacher.loss(self.model, part)
                scale(loss).backward()
                total = total + loss.detach()
            losses[f"loss_{teacher.name}"] = total
        return losses

    def start(self) -> None:
        for teacher in self.teachers:
            teacher.prepare()

    def describe(self, batch: list[Any]) -> list[str]:
        return [name for teacher, own in zip(self.teachers, batch, strict=True) for name in teacher.describe(own)]

    def counts(self) -> dict[str, int]:
        return {
            f"{what}_{teacher.name}": count for teacher in self.teachers for what, count in teacher.counts().items()
        }

    def state_dict(self) -> dict[str, Any]:
        teachers = {teacher.name: teacher.state_dict() for teacher in self.teachers}
        return {"teachers": teachers, "readers": self._readers(), "order": self._order()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the teachers' states.

        Raises:
            ValueError: the checkpoint is of other teachers, or its images would come in another order now: other
                numbers of processes or workers, another seed, other sizes, batches or shards.
            KeyError: it is of another kind of task.
        """
        found, names = state["teachers"], [teacher.name for teacher in self.teachers]
        if sorted(found) != sorted(names):
            raise ValueError(
                f"its teachers were {', '.join(found) or 'none'}, and those of this run are {', '.join(names)}"
            )
        if state["readers"] != self._readers():
            raise ValueError(
                f"its images were shared out to {_told(state['readers'])}, and now there are {_told(self._readers())}: "
                "they would come in another order; set DATALOADER.NUM_WORKERS and the number of processes as they were"
            )
        order = self._order()
        changed = [
            f"{key} was {value}, is {order[key]}" for key, value in state["order"].items() if order[key] != value
        ]
        if changed:
            raise ValueError(
                f"its images would come in another order: {'; '.join(changed)}; set them as they were, or "
                "begin anew in another OUTPUT_DIR"
            )
        for teacher in self.teachers:
            teacher.load_state_dict(found[teacher.name])

    def _order(self) -> dict[str, str]:
        return {key: value for teacher in self.teachers for key, value in teacher.order.items()}

    def _readers(self) -> dict[str, int]:
        return {"processes": comm.get_world_size(), "workers": self.cfg.DATALOADER.NUM_WORKERS}


def _told(readers: dict[str, int]) -> str:
    return f"{readers['processes']} process(es) with {readers['workers']} worker(s) each"
