"""From an empty folder to a page in minutes: draw pictures, train ESC-Net, evaluate it zero-shot, show how it works.

    python -m escnet demo

Pictures, checkpoints, tables and the page, index.html, go to output/demo. A stopped call goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from escnet.command_line import CommandParser, refuse, run_program
from escnet.miniature.world.writing import World

NAME = "escnet demo"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=NAME, description=__doc__)
    parser.add_argument("--config-file", default="configs/mojiscenes/escnet.yaml", help="of ESC-Net (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder (default: %(default)s)")
    parser.add_argument("--train", type=int, default=World.train, help="training pictures (default: %(default)s)")
    parser.add_argument("--val", type=int, default=100, help="pictures of each other split (default: %(default)s)")
    # Written out: DemoTask, whose defaults they are, takes seconds to import.
    parser.add_argument("--large", type=int, default=15, help="pictures among 847 words (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=12, help="pictures on the page (default: %(default)s)")
    parser.add_config_keys("over the configuration")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit code."""
    options, start = parse(arguments), time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:4.0f} s] {text}", flush=True)

    try:
        return _run(options, say)
    except KeyboardInterrupt:
        return refuse(f"\n{NAME}", "stopped; the same command goes on from here", code=130)


def _run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    # Imported here, after the options: torch and detectron2 take seconds, for which --help need not wait.
    from detectron2.utils.logger import setup_logger

    from escnet.miniature.demo import DemoTask, run_demo
    from escnet.pretrained.files import WeightsError
    from escnet.safe_files import DiskFullError

    for name in ("escnet", "detectron2"):
        setup_logger(name=name).setLevel(logging.WARNING)
    setup_logger(name="detectron2.utils.events").setLevel(logging.INFO)  # the progress of the training
    # It would print the traceback of an error that is told in one line below.
    logging.getLogger("detectron2.engine.train_loop").setLevel(logging.CRITICAL)
    try:
        world = World(options.train, options.val)
        page = run_demo(
            DemoTask(options.config_file, options.output, world, options.large, options.examples, tuple(options.opts)),
            say,
        )
    except (ValueError, WeightsError, FloatingPointError, DiskFullError) as error:
        return refuse(NAME, error, code=1)
    except OSError as error:
        return refuse(
            NAME, f"{error}; what is finished is kept: mend this, and the same command goes on from there", code=1
        )
    say(f"open {page.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main, NAME))
