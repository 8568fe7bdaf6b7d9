"""From an empty folder to a page in minutes: draw pictures, train ESC-Net, evaluate it zero-shot, show how it works.

    python tools/miniature/demo.py

Pictures, checkpoints, tables and the page, index.html, go to output/demo. A stopped call goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from escnet.miniature.world.writing import World


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/mojiscenes/escnet.yaml")
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--train", type=int, default=World.train, help="training pictures (default: %(default)s)")
    parser.add_argument("--val", type=int, default=100, help="pictures of each other split (default: %(default)s)")
    parser.add_argument("--large", type=int, default=15, help="pictures among 847 words (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=12, help="pictures on the page (default: %(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="over the configuration")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options, start = parse(arguments), time.perf_counter()
    # Takes seconds, and --help and mistyped options should not.
    from detectron2.utils.logger import setup_logger

    from escnet.miniature.demo import DemoTask, run_demo
    from escnet.pretrained.files import WeightsError

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:4.0f} s] {text}", flush=True)

    for name in ("escnet", "detectron2"):
        setup_logger(name=name).setLevel(logging.WARNING)
    setup_logger(name="detectron2.utils.events").setLevel(logging.INFO)  # the progress of the training
    try:
        page = run_demo(
            DemoTask(
                options.config_file, options.output, World(options.train, options.val), options.large,
                options.examples, tuple(options.opts),
            ),
            say,
        )  # fmt: skip
    except (ValueError, WeightsError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    say(f"open {page.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
