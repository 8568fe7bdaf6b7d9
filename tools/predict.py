r"""Segment photographs into any words: overlays with legends, label maps and JSON for files, folders and globs.

    python tools/predict.py --config-file configs/escnet/vitb16.yaml --weights model_final.pth \
        --input photo.jpg folder "more/*.png" --vocabulary "cat, grass, sky" --output out

For each image NAME it writes NAME_overlay.png, NAME_labels.png (ids into "class_names" of NAME.json) and NAME.json;
with --show-prompts also NAME_prompts.png. Exit code: 0 if all images were segmented, 1 if some were not, 2 if none
could be tried (usage, configuration, weights, vocabulary, no input).
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from escnet.data.images import ImageError
from escnet.predictor import SegmentationResult, Segmenter
from escnet.pretrained.files import WeightsError
from escnet.safe_files import replacing
from escnet.vocabulary import Vocabulary, VocabularyError

SUFFIXES = ("_overlay.png", "_labels.png", "_prompts.png", ".json")


class UsageError(ValueError):
    """Arguments with which nothing can be done."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = _parse(arguments)
    try:
        images, missing = find_images(args.input)
        names = output_names(images)
        _prepare_output(images, names, args.output)
        # A wrong word should be told before a model is loaded.
        Vocabulary.parse(args.vocabulary, args.background)
        segmenter = Segmenter.from_config(args.config_file, args.weights, args.opts, args.device)
        vocabulary = Vocabulary.parse(args.vocabulary, args.background, segmenter.templates)
    except (WeightsError, ValueError, KeyError, OSError) as error:
        return _refuse(error)
    failures = [(path, "does not exist, and matches nothing as a pattern") for path in missing]
    try:
        times = _segment_all(segmenter, vocabulary, images, names, args, failures)
    except VocabularyError as error:  # such as a name that is too long for the text encoder
        return _refuse(error)
    _print_summary(times, failures, args.output)
    return 1 if failures else 0


def find_images(inputs: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The images that files, folders and globs stand for, each once; and the inputs that match nothing.

    Of a folder, the files in it that have the suffix of an image format are taken, in the order of their names.

    Raises:
        UsageError: when there is no image at all.
    """
    found: dict[str, Path] = {}
    missing = []
    for entry in inputs:
        path = Path(entry).expanduser()
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            missing.append(entry)
        for match in matches:
            for file in _images_in(match) if match.is_dir() else [match]:
                found.setdefault(os.path.abspath(file), file)
    if not found:
        raise UsageError(
            f"no image matches --input {' '.join(inputs)}; give image files, folders with images, or globs"
        )
    return list(found.values()), missing


def output_names(images: Sequence[Path]) -> list[str]:
    """A name for the outputs of each image: its stem, numbered from the second image of the same stem on."""
    # Compared without case, since some file systems do not know it.
    stems = {image.stem.casefold() for image in images}
    taken: set[str] = set()
    names = []
    for image in images:
        name, number = image.stem, 1
        while name.casefold() in taken or (number > 1 and name.casefold() in stems):
            number += 1
            name = f"{image.stem}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="predict.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="YAML", help="e.g. configs/escnet/vitb16.yaml")
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint that training wrote (else MODEL.WEIGHTS)")
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH", help="image files, folders, quoted globs")
    parser.add_argument(
        "--vocabulary",
        required=True,
        metavar="WORDS",
        help='"cat, grass, building|edifice", or a .txt file with one class per line',
    )
    parser.add_argument("--background", default="", metavar="WORDS", help='words that become the class "background"')
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--show-prompts", action="store_true", help="also draw correlation maps and pseudo prompts")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (else a GPU if there is one)")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="configuration keys to set, after all options"
    )
    return parser.parse_args(arguments)


def _images_in(folder: Path) -> list[Path]:
    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files = (file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return sorted(file for file in files if file.suffix.lower() in readable)


def _prepare_output(images: Sequence[Path], names: Sequence[str], output: Path) -> None:
    """Make the output folder; refuse one in which an image would be overwritten."""
    inputs = {os.path.abspath(image) for image in images}
    for name in names:
        for suffix in SUFFIXES:
            if os.path.abspath(output / f"{name}{suffix}") in inputs:
                raise UsageError(f"the input {output / name}{suffix} would be overwritten; choose another --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {output}: the folder cannot be made ({error.strerror})") from error


def _segment_all(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    images: Sequence[Path],
    names: Sequence[str],
    args: argparse.Namespace,
    failures: list[tuple[str, str]],
) -> list[float]:
    """Segment the images in turn, with a line for each; adds to `failures`, returns the seconds of the others."""
    times = []
    for number, (path, name) in enumerate(zip(images, names, strict=True), start=1):
        start = time.perf_counter()
        try:
            result = segmenter(path, vocabulary)
            seconds = time.perf_counter() - start
            _write(result, path, args.output / name, seconds, args)
        except (ImageError, OSError, RuntimeError, MemoryError) as error:
            failures.append((str(path), _one_line(error)))
            print(f"[{number}/{len(images)}] {path}  FAILED", flush=True)
            continue
        times.append(seconds)
        print(f"[{number}/{len(images)}] {path}  {_describe(result)}  {seconds:.2f} s", flush=True)
    return times


def _write(result: SegmentationResult, path: Path, stem: Path, seconds: float, args: argparse.Namespace) -> None:
    """The files of one image; the JSON last, so that its presence says that all are there."""
    result.save_overlay(f"{stem}_overlay.png")
    result.save_labels(f"{stem}_labels.png")
    if args.show_prompts:
        result.save_prompts(f"{stem}_prompts.png")
    report = {
        "image": str(path),
        "config": args.config_file,
        "weights": args.weights,
        "options": args.opts,
        "seconds": round(seconds, 3),
        **result.summary(),
    }
    with replacing(f"{stem}.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _describe(result: SegmentationResult) -> str:
    """The size of an image and the three largest classes in it."""
    summary = result.summary()
    largest = [f"{entry['name']} {entry['fraction']:.1%}" for entry in summary["classes"][:3]]
    return f"{summary['width']}x{summary['height']}  {', '.join(largest)}"


def _print_summary(times: Sequence[float], failures: Sequence[tuple[str, str]], output: Path) -> None:
    print(f"\n{len(times)} segmented, {len(failures)} failed; results are in {output}")
    for path, reason in failures:
        print(f"  {path}: {reason.removeprefix(f'{path}: ')}")
    # ru_maxrss counts KiB, but bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures = [f"peak memory {peak / 2**30:.2f} GiB"]
    if times:
        figures.insert(0, f"{sum(times) / len(times):.2f} s per image")
    if torch.cuda.is_available():
        figures.append(f"of the GPU {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    print(", ".join(figures))


def _refuse(error: Exception) -> int:
    print(f"predict.py: error: {_one_line(error)}", file=sys.stderr)
    return 2


def _one_line(error: Exception) -> str:
    # A KeyError puts quotes around its message.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(message).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
