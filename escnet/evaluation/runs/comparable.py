"""Which runs can be compared: those of the same classes, images and truth; and two whole outputs, run by run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from escnet.evaluation.runs.image_results import ImageResult, ImageResults, ResultsError
from escnet.evaluation.runs.run_folder import RunDescription, read_run
from escnet.evaluation.scored_classes import scored_words


class ComparisonError(ValueError):
    """Two runs that cannot be compared; the message says in what they differ."""


def paired_runs(a: Path, b: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pairs of run folders to compare, and descriptions of the runs left without a partner.

    Args:
        a, b: two run folders; or two output folders of evaluations, whose runs are paired by model, dataset and
            protocol, or without the model if each folder has exactly one.

    Raises:
        ResultsError: one is a run and the other is not, or there is nothing to pair.
    """
    folders = [Path(a), Path(b)]
    single = [(folder / "run.json").is_file() for folder in folders]
    if all(single):
        return [(folders[0], folders[1])], []
    if any(single):
        run, other = folders if single[0] else folders[::-1]
        raise ResultsError(
            f"{run} is the folder of one run, but {other} is not; give two runs, or two outputs of eval_zero_shot.py"
        )
    runs_a, runs_b = (_runs_in(folder) for folder in folders)
    by_dataset = all(len({run.model for run in runs}) == 1 for runs in (runs_a, runs_b))

    def keyed(runs: Iterable[RunDescription]) -> dict[tuple[str, ...], Path]:
        return {(run.key,) if by_dataset else (run.key, run.model): run.folder for run in runs}

    of_a, of_b = keyed(runs_a), keyed(runs_b)
    alone = [f"{folder} is only in A" for key, folder in of_a.items() if key not in of_b]
    alone += [f"{folder} is only in B" for key, folder in of_b.items() if key not in of_a]
    pairs = [(folder, of_b[key]) for key, folder in of_a.items() if key in of_b]
    if not pairs:
        raise ResultsError(f"no model and dataset is in both outputs: {'; '.join(alone)}")
    return pairs, alone


def comparable_results(a: RunDescription, b: RunDescription) -> tuple[dict[str, ImageResult], dict[str, ImageResult]]:
    """The results of two runs by image, which are the same images.

    Raises:
        ComparisonError: the runs have another protocol, other images, classes or truth, or mIoU is the mean over other
            classes.
        ResultsError: results are damaged.
    """
    if a.protocol != b.protocol:
        raise ComparisonError(
            f"the protocols differ: '{a.protocol.words}' in A ({a.folder}), '{b.protocol.words}' in B ({b.folder}), "
            "and their numbers are not comparable; evaluate both under the same protocol"
        )
    _check_classes(a, b)
    results_a, results_b = _results(a), _results(b)
    _check_images(a, b, results_a.keys(), results_b.keys())
    _check_truth(a, b, results_a, results_b)
    return results_a, results_b


def miou_name(run: RunDescription) -> str:
    """``mIoU`` or ``oracle mIoU``, and over which classes it is where these are not all."""
    name = run.protocol.miou_name
    return name if run.scored is None else f"{name} over {scored_words(run.scored, len(run.class_names))}"


def _runs_in(folder: Path) -> list[RunDescription]:
    runs = [read_run(path.parent) for path in sorted(folder.glob("*/*/run.json"))]
    if not runs:
        raise ResultsError(f"{folder}: neither a run nor an output of eval_zero_shot.py; no run.json is in it")
    return runs


def _results(run: RunDescription) -> dict[str, ImageResult]:
    results = {result.image: result for result in ImageResults(run.folder)}
    if not results:
        raise ComparisonError(f"{run.folder}: has no results of images (images.*.jsonl); evaluate again")
    return results


def _check_classes(a: RunDescription, b: RunDescription) -> None:
    if len(a.class_names) != len(b.class_names):
        sizes = f"{len(a.class_names)} in A ({a.folder}), {len(b.class_names)} in B ({b.folder})"
        raise ComparisonError(f"the numbers of classes differ: {sizes}; compare runs on one dataset")
    for i, (of_a, of_b) in enumerate(zip(a.class_names, b.class_names, strict=True)):
        if of_a != of_b:
            raise ComparisonError(f"the class names differ at id {i}: '{of_a}' in {a.folder}, '{of_b}' in {b.folder}")
    if a.scored != b.scored:
        raise ComparisonError(
            f"the scored classes differ: A has {miou_name(a)} ({a.folder}), B has {miou_name(b)} ({b.folder}); "
            "evaluate both with the same scored_classes in the metadata of the dataset"
        )


def _check_images(a: RunDescription, b: RunDescription, images_a: Iterable[str], images_b: Iterable[str]) -> None:
    images_a, images_b = set(images_a), set(images_b)
    problems = []
    for which, run, only in (("A", a, images_a - images_b), ("B", b, images_b - images_a)):
        if only:
            shown = ", ".join(sorted(only)[:3]) + (", .." if len(only) > 3 else "")
            problems.append(f"{len(only)} images are only in {which} ({run.folder}): {shown}")
    if problems:
        raise ComparisonError(f"{'; '.join(problems)}. Evaluate both on the same images")


def _check_truth(
    a: RunDescription, b: RunDescription, results_a: dict[str, ImageResult], results_b: dict[str, ImageResult]
) -> None:
    differ = sorted(image for image, result in results_a.items() if result.truth != results_b[image].truth)
    if differ:
        raise ComparisonError(
            f"the truth of {len(differ)} images, such as '{differ[0]}', is not the same in {a.folder} and {b.folder}; "
            "the label files were changed or resized in between. Evaluate both on the same labels"
        )
