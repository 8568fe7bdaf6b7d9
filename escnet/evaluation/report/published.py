"""Rows of the table that others measured: mIoU as reported in the literature."""

from __future__ import annotations

from escnet.data.benchmarks import find_benchmark
from escnet.evaluation.report.result_table import Row

_SHORT_NAMES = ("a847", "pc459", "a150", "pc59", "pas20", "pas20b")
_ESC_NET = "published: ESC-Net's authors, trained on COCO-Stuff; class names, templates and mIoU definition are theirs"
_CAT_SEG = "published: CAT-Seg's authors, trained on COCO-Stuff; class names, templates and mIoU definition are theirs"


def _published(model: str, how: str, *percent: float | None) -> Row:
    """A row of the literature, in the order of `_SHORT_NAMES`."""
    return Row(
        model,
        "published",
        how,
        {
            find_benchmark(short).name: {"miou": round(value / 100, 4)}
            for short, value in zip(_SHORT_NAMES, percent, strict=True)
            if value is not None
        },
    )


PUBLISHED = (
    _published("CAT-Seg ViT-B/16", _CAT_SEG, 12.0, 19.0, 31.8, 57.5, 94.6, 77.3),
    _published("CAT-Seg ViT-L/14", _CAT_SEG, 16.0, 23.8, 37.9, 63.3, 97.0, 82.5),
    _published("ESC-Net ViT-B/16", _ESC_NET, None, None, 35.6, 59.0, 97.3, 80.1),
    _published("ESC-Net ViT-L/14", _ESC_NET, 18.1, 27.0, 41.8, 65.6, 98.3, None),
)
"""mIoU as reported in the literature."""
