"""The protocols of an evaluation: what a model is asked of an image, and so which numbers may stand side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from escnet.evaluation.scored_classes import ScoredClasses

PROTOCOLS = ("ordinary", "oracle")
PROMPTS = ("none", "points", "box")
# (height, width) of everything that the oracle protocol counts.
ORACLE_SIZE = (256, 256)
# Clicks on each mask of the truth, where prompts are points.
ORACLE_POINTS = 5
# Key of a run's conditions; there only if the protocol is not the ordinary one.
PROTOCOL = "protocol"


@dataclass(frozen=True)
class Protocol:
    """What a model is asked of each image.

    "ordinary": one label map, for which all classes of the dataset compete; pixels whose truth is ignored do not count.

    "oracle" (CLIP-Guided SAM, experiments, class-wise metric): a binary mask of each class that the truth holds, and of
    no other, so that nothing is lost by words that are taken for absent ones. `escnet.evaluation.oracle` counts it.
    Numbers of the two are not comparable.

    Attributes:
        name: one of `PROTOCOLS`.
        prompts: one of `PROMPTS`: what of the truth is shown to the model with each class; "none" leaves it the words.

    Raises:
        ValueError: for another name, other prompts, or prompts under the ordinary protocol.
    """

    name: str = "ordinary"
    prompts: str = "none"

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise ValueError(f"the protocol is '{self.name}'; choose {' or '.join(PROTOCOLS)}")
        if self.prompts not in PROMPTS:
            raise ValueError(f"the prompts are '{self.prompts}'; choose one of {', '.join(PROMPTS)}")
        if self.prompts != "none" and not self.is_oracle:
            raise ValueError(
                f"the prompts are '{self.prompts}', but the ordinary protocol shows a model nothing of the truth; "
                "choose the protocol oracle with them, or no prompts"
            )

    @property
    def is_oracle(self) -> bool:
        """Whether the model is told which classes an image has."""
        return self.name == "oracle"

    @property
    def words(self) -> str:
        """``oracle, points``: the protocol, and the prompts if there are any."""
        return self.name if self.prompts == "none" else f"{self.name}, {self.prompts}"

    @property
    def miou_name(self) -> str:
        """What its headline is called."""
        return "oracle mIoU" if self.is_oracle else "mIoU"

    @property
    def note(self) -> str:
        """What has to be said of a column of it; "" for the ordinary protocol."""
        if not self.is_oracle:
            return ""
        height, width = ORACLE_SIZE
        shown = {"points": f", with {ORACLE_POINTS} points on each", "box": ", with the box of each"}
        return (
            f"each image was asked only for the classes in its truth{shown.get(self.prompts, '')}, at "
            f"{height}x{width}, void counting as background. Not comparable with ordinary mIoU"
        )

    def titled(self, title: str) -> str:
        """A dataset's title in tables: as it is, or ``A-150, oracle``."""
        return f"{title}, {self.words}" if self.is_oracle else title

    def key(self, dataset: str) -> str:
        """What tells a dataset's column, and its run's folder, from those of other protocols.

        The ordinary one has the dataset's own name. No folder of a dataset has an "@", by `dataset_folder_name`.
        """
        return f"{dataset}@{self.words.replace(', ', '-')}" if self.is_oracle else dataset

    def counting(self, num_classes: int, scored: ScoredClasses) -> tuple[int, ScoredClasses]:
        """Over how many classes the results of images are counted, and which of these are scored.

        The oracle protocol has one more, N: what is outside the class that is asked for. It is never scored.

        Args:
            num_classes: N, of the dataset.
            scored: first id and end of the scored ones; None: all.
        """
        return (num_classes + 1, scored or (0, num_classes)) if self.is_oracle else (num_classes, scored)

    def conditions(self) -> dict[str, Any]:
        """What the conditions of a run say of it; nothing of the ordinary one, as in runs of before there were two."""
        if not self.is_oracle:
            return {}
        return {PROTOCOL: {"name": self.name, "prompts": self.prompts, "size": list(ORACLE_SIZE)}}

    @classmethod
    def of_conditions(cls, conditions: Mapping[str, Any]) -> Protocol:
        """The protocol that the conditions of a run name.

        Raises:
            KeyError, TypeError, ValueError: they name none that there is.
        """
        found = conditions.get(PROTOCOL)
        return ORDINARY if found is None else cls(found["name"], found["prompts"])


ORDINARY = Protocol()


@dataclass(frozen=True)
class Column:
    """A column of a table: a dataset under a protocol.

    Attributes:
        dataset: as it was asked for, with its slice.
        protocol: under which it is judged.
    """

    dataset: str
    protocol: Protocol = ORDINARY

    @classmethod
    def of_key(cls, key: str) -> Column:
        """The column of a `key`: a dataset alone, ``DATASET@oracle`` or ``DATASET@oracle-points``.

        Raises:
            ValueError: there is no such protocol.
        """
        dataset, _, protocol = key.partition("@")
        return cls(dataset, Protocol(*protocol.split("-")) if protocol else ORDINARY)

    @property
    def key(self) -> str:
        """Under which the scores of a row are found."""
        return self.protocol.key(self.dataset)
