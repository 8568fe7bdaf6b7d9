"""A look at label maps before a training, so that an id without a name is found before the model is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from escnet.data.errors import DatasetError, listed
from escnet.data.images import image_size, read_labels
from escnet.data.label_spaces import LabelSpace, is_unknown
from escnet.data.registration import spread

# Of label maps: some seconds' decoding, which hold all of two thousand of 500x500 pixels.
PIXELS = 500_000_000


def scan_labels(records: Sequence[dict[str, Any]], spaces: Mapping[str, LabelSpace], pixels: int = PIXELS) -> int:
    """Look for ids that have no name, in the label maps of ``folder:PATH`` datasets.

    Args:
        records: of images, with ``dataset`` and ``sem_seg_file_name``.
        spaces: label space of each dataset that is looked at. Those of benchmarks need not be: their scripts have
            looked at every id.
        pixels: about as many are looked at of each dataset; of a larger one, label maps that are evenly spread.

    Returns:
        How many label maps were looked at.

    Raises:
        DatasetError: one has an id that neither is a class nor is ignored.
        ImageError: one cannot be read, or is of another depth.
    """
    own: dict[str, list[str]] = {name: [] for name in spaces}
    for record in records:
        if record.get("dataset") in own:
            own[record["dataset"]].append(record["sem_seg_file_name"])
    looked_at = 0
    for dataset, files in own.items():
        if not files:
            continue
        height, width = image_size(files[0])
        chosen = spread(files, max(1, pixels // (height * width)))
        for file in chosen:
            _check(dataset, file, spaces[dataset])
        looked_at += len(chosen)
    return looked_at


def _check(dataset: str, file: str, space: LabelSpace) -> None:
    ids = np.unique(read_labels(file, space.bits))
    unknown = ids[is_unknown(ids, space.vocabulary.num_classes, space.ignore_label)].tolist()
    if unknown:
        raise DatasetError(
            f"{file}: has the ids {listed(unknown, 5)}, and classes.txt names 0..{space.vocabulary.num_classes - 1} "
            f"({space.ignore_label} = ignored); add lines to it, or correct the label maps: tools/check_dataset.py "
            f"{dataset} finds all"
        )
