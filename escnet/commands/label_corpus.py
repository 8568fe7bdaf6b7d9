r"""Label a collection of pictures, of a million or more, by any words: resumable, each picture exactly once.

    python -m escnet label_corpus --config-file configs/escnet/vitb16.yaml --weights model_final.pth \
        --input photos --words "cat, grass, building|edifice" --output labels --engine local --workers 4
    python -m escnet label_corpus ... --input "shards-{000..099}.tar" --engine ray --address auto
    python -m escnet label_corpus --verify --output labels

The input is a folder, tar archives in WebDataset's convention, Parquet files with pictures, or URLs of these that
fsspec knows (s3://bucket/prefix). It is cut into units, each of which becomes a file in OUTPUT/labels: Parquet with the
key, source and size of each picture, and id, name, COCO run lengths, area and mean score of each of its classes; or a
tar of label maps and JSON. Pictures that cannot be labelled are in OUTPUT/failures.jsonl with the reason, and are tried
again with --retry-failures. Stopped in whatever way, the same command goes on. Exit code: 0 if all pictures are
labelled, 1 if some are not, 2 if none could be tried.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from escnet.command_line import (
    CommandParser,
    add_batch_size,
    at_least_one,
    positive_number,
    program_name,
    refuse,
    zero_or_more,
)

if TYPE_CHECKING:
    from escnet.labelling.corpus.labeller import Job
    from escnet.labelling.corpus.plan import Place
    from escnet.labelling.corpus.records import Record
    from escnet.labelling.corpus.units import UnreadableUnitError

NAME = program_name("label_corpus")
PROGRAM = f"{NAME}: error"
_NEEDED = ("input", "words")
_TOLD = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    if args.verify:
        return _verify(args.output)
    # What is imported in functions takes seconds, and --help and mistyped options should not.
    from escnet.labelling.corpus.plan import alone_in
    from escnet.safe_files import DiskFullError

    try:
        with alone_in(args.output):
            return _label(args)
    except DiskFullError as error:
        return refuse(PROGRAM, f"{error}; what is finished is kept", code=1)
    except KeyboardInterrupt:
        return refuse(f"\n{NAME}", "stopped; the same command goes on from here", code=130)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        return refuse(PROGRAM, error)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=NAME, description=__doc__)
    add = parser.add_argument
    parser.add_model_options(required=False)
    add("--input", metavar="PATH", help="a folder, tar archives or Parquet files as a pattern, or a URL of these")
    add("--words", metavar="WORDS", help='"cat, grass, building|edifice", or a file with one class per line')
    add("--background", default="", metavar="WORDS", help='words that become the class "background"')
    add("--output", required=True, type=Path, metavar="FOLDER", help="which all workers have to see")
    add("--engine", choices=("local", "ray"), default="local", help="what deals out the units (default: local)")
    add(
        "--workers",
        type=zero_or_more,
        default=0,
        metavar="N",
        help="worker processes, each with a model (default: of local none but this one, of ray one on each GPU or CPU)",
    )
    add("--address", metavar="HOST:PORT", help='of the Ray cluster, or "auto" (else one on this machine alone)')
    add_batch_size(parser)
    add(
        "--readers",
        type=zero_or_more,
        default=2,
        metavar="T",
        help="threads of each worker that read and decode ahead of the model (default: 2)",
    )
    add(
        "--samples-per-shard",
        type=at_least_one,
        default=1000,
        metavar="S",
        help="pictures of a folder that make a unit (default: 1000); archives and row groups are units",
    )
    add("--format", choices=("parquet", "webdataset"), default="parquet", help="of the labels (default: parquet)")
    add("--max-pixels", type=zero_or_more, metavar="N", help="of a picture (default: 179 million; 0: no limit)")
    add(
        "--attempts",
        type=at_least_one,
        default=3,
        metavar="K",
        help="times that a unit, then a picture of it, may end its process until it is passed over (default: 3)",
    )
    add(
        "--time-limit",
        type=positive_number,
        metavar="SECONDS",
        help="that a picture may take until its process is ended and counted as an attempt (default: none); a batch of "
        "B may take B times as long. Of local, the work is then done in one worker process at least",
    )
    add("--retry-failures", action="store_true", help="also label again what earlier runs recorded as failures")
    add("--device", help="cpu, cuda, cuda:1, mps ... (else a GPU if there is one)")
    add("--verify", action="store_true", help="label nothing; check that OUTPUT has each picture exactly once")
    parser.add_config_keys()
    options = parser.parse_args(arguments)
    missing = [f"--{name.replace('_', '-')}" for name in _NEEDED if getattr(options, name) is None]
    if options.model is None and options.config_file is None:
        missing.insert(0, "--model or --config-file")
    if missing and not options.verify:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    if options.address and options.engine != "ray":
        parser.error("--address is of a Ray cluster; add --engine ray")
    return options


def _label(args: argparse.Namespace) -> int:
    from escnet.labelling.corpus.plan import places
    from escnet.labelling.corpus.records import read_record, remove_remains, write_manifest

    job, header = _prepare(args)
    remove_remains(args.output)
    todo, again = [], {}
    for place in places(args.output):
        record = read_record(args.output, place.unit)
        if record is not None and args.retry_failures and record.failures:
            again[place.unit] = len(record.failures)
        if record is None or place.unit in again:
            todo.append(place)
    if todo:
        failures = f", in {len(again)} of them {sum(again.values())} failures" if again else ""
        print(f"{len(todo)} of {header['units']} units to label{failures}", file=sys.stderr, flush=True)
    progress = _Progress(header, len(todo), again)
    start = time.perf_counter()
    try:
        _run(args, job, todo, progress.tell)
    finally:
        progress.close()
        sums = write_manifest(args.output, header["units"], header)
    print(f"{sums['labelled']} labelled, {sums['failures']} failed, in {sums['finished']} of {sums['units']} units")
    if progress.pictures:
        seconds = time.perf_counter() - start
        print(f"{progress.pictures} of them now, {progress.pictures / seconds:.2f} images/s", end=", ")
    print(f"{sums['bytes']} bytes of labels in {args.output}")
    for reason in progress.left[:_TOLD]:
        print(f"  {reason}")
    return 1 if progress.left or sums["failures"] or sums["faults"] else 0


def _prepare(args: argparse.Namespace) -> tuple[Job, dict[str, Any]]:
    """The job and the header of its plan, which is written if there is none.

    Raises:
        LabellingError: the output has the plan of another command, or there is nothing to label.
    """
    from escnet.data.images import MAX_PIXELS
    from escnet.labelling.corpus.inputs import list_input, parquet_library
    from escnet.labelling.corpus.labeller import Job
    from escnet.labelling.corpus.plan import header_of, read_header, require_same, write_plan
    from escnet.publishing.chosen_models import chosen_config
    from escnet.vocabulary import Vocabulary

    if args.format == "parquet":
        parquet_library()
    words = Vocabulary.parse(args.words, args.background)
    cfg = chosen_config(args.model, args.config_file, args.opts, args.weights)
    vocabulary = Vocabulary(words.names, words.background, cfg.TEST.TEMPLATES)
    max_pixels = MAX_PIXELS if args.max_pixels is None else args.max_pixels or None
    listing = list_input(args.input, args.samples_per_shard, args.output)
    settings = {"format": args.format, "samples_per_shard": args.samples_per_shard, "max_pixels": max_pixels}
    header = header_of(args.input, listing, vocabulary, cfg, settings)
    planned = read_header(args.output)
    if planned is None:
        write_plan(args.output, header, listing)
    else:
        require_same(args.output, planned, header)
    job = Job(
        cfg,
        args.device,
        vocabulary,
        args.output.resolve(),
        args.format,
        args.batch_size,
        args.readers,
        max_pixels,
        args.attempts,
        args.time_limit,
        args.retry_failures,
    )
    return job, header


def _run(args: argparse.Namespace, job: Job, todo: list[Place], tell: Any) -> None:
    if not todo:
        return
    if args.engine == "ray":
        from escnet.labelling.corpus.ray_engine import label_on_ray

        label_on_ray(job, todo, args.workers, tell, args.address)
        return
    from escnet.labelling.corpus.local_engine import label_here, label_in_processes

    # A picture that takes too long ends the process in which it is.
    workers = args.workers or (1 if args.time_limit else 0)
    if workers:
        label_in_processes(job, todo, min(workers, len(todo)), tell)
    else:
        label_here(job, todo, tell)


class _Progress:
    """Tells how far it is, in pictures where the plan knows how many, else in units.

    Args:
        header: of the plan.
        units: that are to be labelled.
        again: of them, those of which only failures are labelled again, and how many.

    Attributes:
        pictures: that were labelled or failed now.
        left: why units could not be read.
    """

    def __init__(self, header: dict[str, Any], units: int, again: dict[int, int]) -> None:
        from escnet.progress import progress_bar

        self._of_pictures = header["pictures"] is not None
        self._again = again
        share = (units - len(again)) / max(1, header["units"])
        total = round(header["pictures"] * share) + sum(again.values()) if self._of_pictures else units
        unit = "image" if self._of_pictures else "unit"
        self._bar = progress_bar(total=total, desc="labelling", unit=unit, disable=not units)
        self._start = time.monotonic()
        self._failed = 0
        self.pictures = 0
        self.left: list[str] = []

    def tell(self, answer: Record | UnreadableUnitError) -> None:
        """Hear of a unit that is finished, or could not be read."""
        if isinstance(answer, Exception):
            self.left.append(str(answer))
            return
        pictures = self._again.get(answer.unit, answer.labelled + len(answer.failures))
        self.pictures += pictures
        self._failed += len(answer.failures)
        rate = self.pictures / max(1e-9, time.monotonic() - self._start)
        self._bar.set_postfix(failed=self._failed, images_per_s=f"{rate:.2f}", refresh=False)
        self._bar.update(pictures if self._of_pictures else 1)

    def close(self) -> None:
        """Write the last line."""
        self._bar.close()


def _verify(output: Path) -> int:
    from escnet.labelling.corpus.plan import read_header
    from escnet.labelling.corpus.verification import verify

    try:
        if read_header(output) is None:
            return refuse(PROGRAM, f"{output}: has no plan.jsonl; give the --output of a labelling")
        verdict = verify(output)
    except (ValueError, OSError) as error:
        return refuse(PROGRAM, error)
    print(f"{verdict.expected} pictures: {verdict.labelled} labelled, {verdict.failed} recorded as failures")
    for fault in verdict.faults:
        print(f"  {fault}")
    if verdict.more:
        print(f"  and {verdict.more} more")
    print("each picture is there exactly once" if not verdict.faults else "not as it should be")
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
