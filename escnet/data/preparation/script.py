"""What the scripts in ``datasets`` share: pairing of files, checks before anything is written, the run, the summary."""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from tabulate import tabulate

from escnet.data.benchmarks import Benchmark, data_root, find_benchmark
from escnet.data.errors import DatasetError, listed
from escnet.data.pairing import Source, files_by_name
from escnet.data.preparation.ending import prepare_or_refuse
from escnet.data.preparation.label_conversion import Task
from escnet.data.preparation.making import Count, Recipe, count_pixels, make_all, read_checked
from escnet.progress import progress_bar
from escnet.safe_files import replacing
from escnet.worker_pool import worker_pool

REPORT, TABLE = "preparation.json", "preparation.csv"
_TRIALS = 16
_SHOWN_CLASSES = 15


@dataclass(frozen=True)
class LabelSet:
    """The label maps of one registered dataset, and what they are made of.

    Attributes:
        dataset: name in the table of datasets, which says where the files go.
        folder: of the table's paths, the part that `root` stands for.
        read: the (H,W) train ids of a task.
        sources: the published files of each image, by its name without suffix.
        short_side: if not None, photographs are written too, shrunk to this (0 = not at all).
        settings: what label maps made before must agree with to be kept.
        notes: what the reader of the summary should know.
    """

    dataset: str
    root: Path
    folder: str
    read: Callable[[Task], np.ndarray]
    sources: Mapping[str, Source]
    short_side: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def benchmark(self) -> Benchmark:
        """The row of the table."""
        return find_benchmark(self.dataset)

    @property
    def recipe(self) -> Recipe:
        """How one label map is made."""
        row = self.benchmark
        return Recipe(self.read, len(row.class_names), row.ignored, row.bits, self.short_side or 0)

    @property
    def labels(self) -> Path:
        """Pattern of the label maps to be written."""
        return self.root / PurePath(self.benchmark.labels).relative_to(self.folder)

    @property
    def images(self) -> Path:
        """Pattern of the photographs that go with them."""
        return self.root / PurePath(self.benchmark.images).relative_to(self.folder)

    def tasks(self, names: Iterable[str]) -> Iterable[Task]:
        """The tasks that make the label maps of these images, one by one."""
        images, labels = self.images, self.labels
        for name in names:
            source, output = self.sources[name], str(labels.with_name(name + labels.suffix))
            photograph = None if self.short_side is None else str(images.with_name(name + images.suffix))
            yield Task(source.image, source.labels, output, photograph, source.detail)


def run_script(
    description: str,
    folder: str,
    splits: Sequence[str],
    plan: Callable[[argparse.Namespace, str], Sequence[LabelSet]],
    arguments: Sequence[str] | None = None,
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """Run a prepare script; returns its exit code.

    Args:
        folder: of the dataset, below the data root.
        splits: names to choose from with ``--splits``; default all.
        plan: lists the label maps of a split and what they are made of, raising a DatasetError if files are missing.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help=f"folder of the dataset; default: $DETECTRON2_DATASETS/{folder}")
    parser.add_argument("--splits", nargs="+", choices=splits, default=list(splits), help="default: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes; default: one for each core")
    parser.add_argument("--overwrite", action="store_true", help="make anew what an earlier run has made")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}; at least one is needed")
    if options.root is None:
        options.root = data_root() / folder

    def prepare() -> None:
        label_sets = _plan_all(plan, options)
        for label_set in label_sets:
            check(label_set, options.overwrite)
        with worker_pool(options.workers, preload=make_all.__module__) as pool:
            for label_set in label_sets:
                count = make(label_set, pool, options.workers, options.overwrite)
                print(write_summary(label_set, count), flush=True)

    return prepare_or_refuse(folder, prepare)


def check(label_set: LabelSet, overwrite: bool = False) -> None:
    """Look for what would make wrong label maps, before anything is written.

    Some files, spread over all, are converted for trial: another archive of the same dataset shows in any of them.

    Raises:
        DatasetError: the folder has label maps made in another way, or of other images, or no trial has any class.
        ImageError: a file of the trial cannot be converted.
    """
    report = label_set.labels.with_name(REPORT)
    if report.is_file() and not overwrite:
        _check_settings(report, dict(label_set.settings))
    for pattern in (label_set.labels, *([label_set.images] if label_set.short_side is not None else [])):
        strangers = sorted(files_by_name(pattern.parent, pattern.suffix).keys() - label_set.sources.keys())
        if strangers:
            raise DatasetError(
                f"{pattern}: {len(strangers)} files are not of this split: {listed(strangers, 5)}; move them away"
            )
    names = list(label_set.sources)
    places = np.unique(np.linspace(0, len(names) - 1, _TRIALS).astype(int)).tolist()
    recipe, trials = label_set.recipe, list(label_set.tasks(names[place] for place in places))
    pixels = sum(count_pixels(recipe, read_checked(recipe, task)) for task in trials)
    if not pixels[:-1].any():
        raise DatasetError(
            f"{trials[0].source} and {len(trials) - 1} others looked at: not one pixel of the {recipe.num_classes} "
            f"classes of {label_set.dataset}; is this another release of the dataset?"
        )


def make(label_set: LabelSet, pool: ProcessPoolExecutor | None, workers: int, overwrite: bool = False) -> Count:
    """Make all label maps that are not there yet, with a progress bar, and count the pixels of all."""
    if overwrite:
        _remove(label_set)
    report = label_set.labels.with_name(REPORT)
    if not report.is_file():
        _write_if_new(report, json.dumps({"settings": dict(label_set.settings), "complete": False}))
    recipe = label_set.recipe
    total = Count.nothing(recipe)
    with progress_bar(total=len(label_set.sources), desc=label_set.dataset, unit="image") as bar:
        for count in make_all(recipe, label_set.tasks(label_set.sources), pool, ahead=2 * workers):
            total += count
            bar.update(count.made + count.kept)
    return total


def write_summary(label_set: LabelSet, count: Count) -> str:
    """Write the pixels per class beside the label maps, as JSON and CSV; returns a text to be shown."""
    benchmark = label_set.benchmark
    names, images = benchmark.class_names, len(label_set.sources)
    pixels, ignored, total = count.pixels[:-1].tolist(), int(count.pixels[-1]), int(count.pixels.sum())
    absent = pixels.count(0)
    contents = {
        "dataset": benchmark.name,
        "settings": dict(label_set.settings),
        "complete": True,
        "notes": list(label_set.notes),
        "images": images,
        "published_images": list(benchmark.sizes),
        "pixels": total,
        "ignored_pixels": ignored,
        "classes": len(names),
        "classes_that_do_not_occur": absent,
        "pixels_per_class": dict(zip(names, pixels, strict=True)),
    }
    table = label_set.labels.with_name(TABLE)
    _write_if_new(label_set.labels.with_name(REPORT), json.dumps(contents, indent=1, ensure_ascii=False) + "\n")
    rows = [(index, name, number) for index, (name, number) in enumerate(zip(names, pixels, strict=True))]
    _write_table(table, [*rows, (benchmark.ignored, "(ignored)", ignored)], total)

    published = " or ".join(map(str, benchmark.sizes))
    largest = sorted((row for row in rows if row[2]), key=lambda row: -row[2])[:_SHOWN_CLASSES]
    shown = [(name, f"{number:,}", f"{number / total:.2%}") for _, name, number in largest]
    lines = [
        f"{benchmark.name}: {images} images ({count.made} made, {count.kept} already there); published: "
        f"{published}{'' if images in benchmark.sizes else ', so this is not the whole split'}",
        *label_set.notes,
        tabulate(shown, ("class", "pixels", "share"), colalign=("left", "right", "right"), disable_numparse=True),
        f"{len(names) - absent} of {len(names)} classes occur, {absent} do not; {ignored / total:.2%} of the pixels "
        f"are ignored; all classes: {table}",
    ]
    return "\n".join(lines)


def _plan_all(
    plan: Callable[[argparse.Namespace, str], Sequence[LabelSet]], options: argparse.Namespace
) -> list[LabelSet]:
    """The label maps of all splits; what is missing in any of them is told at once."""
    if not options.root.is_dir():
        raise DatasetError(f"there is no folder {options.root}; unpack the dataset there, or name its folder as --root")
    label_sets, faults = [], []
    for split in dict.fromkeys(options.splits):
        try:
            label_sets += plan(options, split)
        except DatasetError as error:
            faults.append(f"{split}: {error}")
    if faults:
        advice = f"; --splits can leave out one of {', '.join(options.splits)}" if len(options.splits) > 1 else ""
        raise DatasetError("\n".join(faults) + advice)
    return label_sets


def _check_settings(report: Path, settings: dict[str, Any]) -> None:
    try:
        made_with = json.loads(report.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{report}: is damaged ({error}); give --overwrite to make the label maps anew") from error
    if made_with != settings:
        raise DatasetError(
            f"{report}: what is there was made with {json.dumps(made_with)}, not with {json.dumps(settings)}; "
            f"take the same options, or give --overwrite to make it anew"
        )


def _remove(label_set: LabelSet) -> None:
    """Remove what an earlier run made, so that an overwriting that is cut off can be continued without doubt."""
    for task in label_set.tasks(label_set.sources):
        for path in filter(None, (task.output, task.photograph)):
            Path(path).unlink(missing_ok=True)
    for name in (REPORT, TABLE):
        label_set.labels.with_name(name).unlink(missing_ok=True)


def _write_table(path: Path, rows: Sequence[tuple[int, str, int]], total: int) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("train_id", "name", "pixels", "share"))
        writer.writerows((*row, f"{row[2] / total:.6f}") for row in rows)


def _write_if_new(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
