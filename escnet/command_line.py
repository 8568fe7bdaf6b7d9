"""Options of a command line, tables in answer, and how a command ends that cannot go on: one line, and a code."""

from __future__ import annotations

import argparse
import math
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from escnet.optional_packages import missing_package

# What PyTorch puts before the traceback of an error in a loader's process, raised again with both as its message.
_IN_LOADER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.")
# The configuration key of `--point-draws`.
POINT_DRAWS = "MODEL.GUIDED.POINT_DRAWS"
# Of arguments with which nothing can be done; 1 is for what failed on the way.
UNUSABLE = 2
# As of a program that ends by SIGPIPE.
CLOSED = 141
# Of a configuration, whose own module takes seconds to import: what has keys below it, and what is one.
SECTIONS = (
    "MODEL", "INPUT", "DATASETS", "DATALOADER", "SOLVER", "TEST", "GLOBAL", "PROMPTABLE", "LABELLED", "DISTILL",
)  # fmt: skip
SINGLE_KEYS = ("VERSION", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK", "VIS_PERIOD", "TASK")
_KEY = re.compile(rf"(?:{'|'.join(SECTIONS)})(?:\.[A-Z0-9_]+)+|{'|'.join(SINGLE_KEYS)}")


class CommandParser(argparse.ArgumentParser):
    """The options of a command: its description as it stands, and configuration keys behind all options.

    An option that takes several values ends where a configuration key begins, as in `--benchmarks a150 pc59 TEST.X 1`.

    Args:
        settings: of `argparse.ArgumentParser`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **settings})
        self._takes_keys = self._takes_model = False

    def add_config_keys(self, text: str = "configuration keys to set, after all options") -> None:
        """Take KEY VALUE pairs after all options, as the list `opts` of texts; `text` is what --help says of them."""
        self._takes_keys = True
        self.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=text)

    def add_model_options(
        self,
        weights: str | None = "a checkpoint that training wrote, or a published model (else MODEL.WEIGHTS)",
        default: str | None = None,
        required: bool = True,
    ) -> None:
        """Take the model to use: a published one, or a configuration and its weights; never both.

        Args:
            weights: of --help of --weights; None for a command that needs none.
            default: the configuration where none is named.
            required: whether one of the two has to be named.
        """
        self._takes_model = True
        which = self.add_mutually_exclusive_group(required=required and default is None)
        which.add_argument(
            "--model",
            metavar="NAME",
            help="a folder that save_pretrained wrote, hub:owner/name[@revision], shipped:esc_net",
        )
        example = f"(default: {default})" if default else "e.g. configs/escnet/vitb16.yaml"
        which.add_argument("--config-file", metavar="YAML", default=default, help=f"in its place: {example}")
        if weights:
            self.add_argument("--weights", metavar="FILE", help=weights)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does; it ends the process with exit code 2 for options that cannot be used."""
        arguments = list(sys.argv[1:] if args is None else args)
        first = self._first_key(arguments)
        options, rest = super().parse_known_args(arguments[:first], namespace)
        if self._takes_keys:
            keys = [*options.opts, *arguments[first:]]
            if late := next((text for text in keys if text.split("=")[0] in self._option_string_actions), None):
                self.error(f"{late} stands after {keys[0]}; configuration keys and their values are the last arguments")
            options.opts = keys
        if self._takes_model and options.model and getattr(options, "weights", None):
            self.error("--model brings its weights; leave --weights out, or take --config-file")
        return options, rest

    def _first_key(self, arguments: Sequence[str]) -> int:
        """Where configuration keys begin; a key right behind an option that takes a value is that value."""
        if self._takes_keys:
            flags = {option for action in self._actions if action.nargs == 0 for option in action.option_strings}
            before = ""
            for place, text in enumerate(arguments):
                # A number below 0 is no option.
                is_option = before.startswith("-") and not before[1:2].isdecimal() and "=" not in before
                if _KEY.fullmatch(text) and (before in flags or not is_option):
                    return place
                before = text
        return len(arguments)


def at_least_one(text: str) -> int:
    """A whole number of 1 or more, as the `type` of an option.

    Raises:
        ArgumentTypeError: it is none; argparse puts the name of the option before the message.
    """
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def zero_or_more(text: str) -> int:
    """A whole number that is not negative, as the `type` of an option.

    Raises:
        ArgumentTypeError: it is none; argparse puts the name of the option before the message.
    """
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def positive_number(text: str) -> float:
    """A finite number above 0, as the `type` of an option.

    Raises:
        ArgumentTypeError: it is none; argparse puts the name of the option before the message.
    """
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value


def share(text: str) -> float:
    """A share of 0 or more and below 1, as the `type` of an option.

    Raises:
        ArgumentTypeError: it is none; argparse puts the name of the option before the message.
    """
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of 0 or more and below 1")
    return value


def _number(text: str) -> float:
    """NaN for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def safetensors_path(text: str) -> Path:
    """The name of a .safetensors file, as the `type` of an option.

    Raises:
        ArgumentTypeError: it ends otherwise; argparse puts the name of the option before the message.
    """
    path = Path(text)
    if path.suffix != ".safetensors":
        raise argparse.ArgumentTypeError(f"has to end in .safetensors, got {text}")
    return path


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Let a command say how many images share a pass of the model."""
    parser.add_argument(
        "--batch-size",
        type=at_least_one,
        default=1,
        metavar="B",
        help="images of any sizes that share a pass (default: 1); it changes time and memory, no result",
    )


def add_point_draws(parser: argparse.ArgumentParser) -> None:
    """Let a command say how often a model draws the points that it makes of a word, whose masks are averaged."""
    parser.add_argument(
        "--point-draws",
        type=at_least_one,
        metavar="R",
        help=f"draw the points of each word R times, and average the masks ({POINT_DRAWS})",
    )


def point_draws_options(draws: int | None, opts: Sequence[str]) -> list[str]:
    """KEY VALUE options with what `--point-draws` sets, if it is given.

    Raises:
        ValueError: the options set the same key.
    """
    if draws is None:
        return list(opts)
    if POINT_DRAWS in opts[::2]:
        raise ValueError(f"--point-draws and {POINT_DRAWS} set the same key; leave one out")
    return [*opts, POINT_DRAWS, str(draws)]


def add_gpu_assumptions(parser: argparse.ArgumentParser, tflops: float, memory: float) -> None:
    """Let a command say what a GPU is assumed to do; by default it sustains TFLOP/s and has GB as given."""
    add = parser.add_argument
    add(
        "--tflops",
        type=positive_number,
        default=tflops,
        metavar="T",
        help=f"that a GPU sustains, in TFLOP/s (default: {tflops:g})",
    )
    add("--bandwidth", type=positive_number, default=12.5, metavar="B", help="of its network, in GB/s (default: 12.5)")
    add("--gpu-memory", type=positive_number, default=memory, metavar="M", help=f"in GB (default: {memory:g})")


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table in Markdown below its title; nothing where it has no rows."""
    from tabulate import tabulate

    if rows:
        print(f"\n{title}\n\n{tabulate(rows, header, tablefmt='github', disable_numparse=True)}", flush=True)


def one_line(error: BaseException) -> str:
    """The message of an error on one line, without the traceback of a loader's process; its type, if it has none."""
    # A KeyError puts quotes around its message.
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    if _IN_LOADER.match(message):
        # "package.module.ImageError: photo.jpg: the message"
        message = message.splitlines()[-1].split(": ", 1)[-1]
    return " ".join(message.split()) or type(error).__name__


def refuse(program: str, error: BaseException | str, code: int = UNUSABLE) -> int:
    """Say what is wrong, after the name of the program; returns the exit code.

    Where it is that the output is not read any more, nothing is said, as of `run_program`.
    """
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return CLOSED
    message = error if isinstance(error, str) else one_line(error)
    print(f"{program}: {message}", file=sys.stderr, flush=True)
    return code


def program_name(command: str) -> str:
    """What a command is called in its own messages: as it was called, "escnet NAME" or "NAME.py"."""
    called = Path(sys.argv[0])
    is_package = called.name == "escnet" or called.parts[-2:] == ("escnet", "__main__.py")
    return f"escnet {command}" if is_package else f"{command}.py"


def run_program(main: Callable[[], int | None], program: str = "") -> int:
    """Run the main function of a program; returns its exit code, and says in one line which package is missing.

    Where the output is not read any more, it ends in silence.

    Args:
        main: the function.
        program: its name; else that of the script that runs.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
        return code
    except ModuleNotFoundError as error:
        # A module that nobody can install is a fault, and keeps its traceback.
        if (remedy := missing_package(error)) is None:
            raise
        return refuse(program or Path(sys.argv[0]).name, remedy)
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return CLOSED


def _nobody_reads() -> bool:
    """Whether the reader of the output has gone, as that of `| head`; what is left of it then goes nowhere."""
    try:
        output, watch = sys.stdout.fileno(), select.poll()
    except OSError:  # no file of the system
        return False
    watch.register(output, 0)
    if not any(event & select.POLLERR for _, event in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True
