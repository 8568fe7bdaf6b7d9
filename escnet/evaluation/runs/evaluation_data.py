"""What an evaluation needs to know of a dataset, looked up once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode

from escnet.data.benchmarks import find_benchmark, split_dataset_name
from escnet.data.errors import DatasetError
from escnet.data.label_spaces import LabelSpace, label_spaces
from escnet.data.registration import dataset_metadata, dataset_records
from escnet.evaluation.protocols import ORDINARY, Protocol
from escnet.evaluation.scored_classes import ScoredClasses, scored_classes


@dataclass(frozen=True)
class EvaluationData:
    """A dataset, or a slice of one, and the protocol under which it is judged.

    Attributes:
        dataset: its name, with the slice.
        records: in Detectron2's format, sorted.
        space: the words of its classes and the ignored id.
        class_names: the published name of each class.
        complete: number of images of the dataset without the slice.
        scored: first id and end of the classes that mIoU is the mean of; None: all.
        protocol: what a model is asked of an image.
    """

    dataset: str
    records: list[dict[str, Any]] = field(repr=False)
    space: LabelSpace = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    complete: int
    scored: ScoredClasses = None
    protocol: Protocol = ORDINARY

    @classmethod
    def load(cls, dataset: str, cfg: CfgNode, protocol: Protocol = ORDINARY) -> EvaluationData:
        """Look up a dataset, with the class names and templates of TEST.

        Raises:
            DatasetError: it is not there as expected, has no class names, or scores classes that it does not have.
        """
        whole, _ = split_dataset_name(dataset)
        records = dataset_records(dataset)
        complete = len(records) if dataset == whole else len(dataset_records(whole))
        (space,) = label_spaces([dataset], cfg.TEST.TEMPLATES, cfg.TEST.CLASS_NAMES).values()
        metadata = dataset_metadata(dataset)
        names = tuple(metadata.stuff_classes)
        try:
            scored = scored_classes(metadata.get("scored_classes"), len(names))
        except ValueError as error:
            raise DatasetError(f"'{dataset}': {error}; correct its MetadataCatalog entry") from None
        return cls(dataset, records, space, names, complete, scored, protocol)

    @property
    def title(self) -> str:
        """The name of the dataset in tables, and that of a protocol which is not the ordinary one."""
        return self.protocol.titled(dataset_title(self.dataset))

    @property
    def key(self) -> str:
        """What tells its column from those of other datasets and protocols."""
        return self.protocol.key(self.dataset)

    @property
    def of(self) -> int | None:
        """How many images there should be, where not all of the published split, or of the dataset, are evaluated."""
        benchmark, images = find_benchmark(self.dataset), len(self.records)
        expected = benchmark.sizes if benchmark and benchmark.sizes else (self.complete,)
        return None if images in expected else expected[0]


def dataset_title(dataset: str) -> str:
    """The name of a dataset in tables: ``A-150`` for ade20k_150_val, other datasets as they are called."""
    benchmark = find_benchmark(dataset)
    return split_dataset_name(dataset)[0] if benchmark is None else benchmark.title or benchmark.name
