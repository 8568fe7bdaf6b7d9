"""The table of benchmarks writes the rows of MojiScenes' classes as numbers; the world decides what they are."""

from __future__ import annotations

import pytest

from escnet.data.benchmarks import BENCHMARKS, find_benchmark
from escnet.miniature.world.classes import BASE, CLASS_FILE, NOVEL, STUFF, words
from escnet.miniature.world.writing import SPLITS

# Of each split: the parts of the class file that its labels use, and those that mIoU is the mean of.
EXPECTED = {
    "train": ((BASE, STUFF), None),
    "val_base": ((BASE, STUFF), BASE),
    "val_novel": ((STUFF, NOVEL), NOVEL),
    "val_many": ((STUFF, NOVEL), NOVEL),
    "val_all": ((BASE, STUFF, NOVEL), None),
    "val_847": ((range(len(words())),), None),
}


def test_the_splits_of_the_table_are_those_that_are_drawn() -> None:
    drawn = [name for split in SPLITS.values() for name in split.labels]
    listed = [row.name.removeprefix("mojiscenes_") for row in BENCHMARKS if row.name.startswith("mojiscenes_")]
    assert sorted(listed) == sorted(drawn) == sorted(EXPECTED)


@pytest.mark.parametrize("split", EXPECTED)
def test_rows_and_scored_classes_are_those_of_the_world(split: str) -> None:
    benchmark, (parts, scored) = find_benchmark(f"mojiscenes_{split}"), EXPECTED[split]
    table = words()
    expected = [table[row] for part in parts for row in part]
    assert benchmark.classes == CLASS_FILE
    assert list(benchmark.class_table) == expected
    # Labels are rows of the class file less the first: every id of the split fits, and none is the ignored one.
    assert len(expected) <= benchmark.ignored < 2**benchmark.bits
    if scored is None:
        assert benchmark.scored is None
    else:
        ids = range(*benchmark.scored)
        assert [benchmark.class_table[index] for index in ids] == [table[row] for row in scored]
