"""The commands of the package: `python -m escnet COMMAND`, or `escnet COMMAND`; each is imported when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from escnet import __version__
from escnet.command_line import refuse, run_program


class Command(NamedTuple):
    """A command: the module whose `main(arguments) -> int` it is, and what it does."""

    module: str
    purpose: str


COMMANDS = {
    "demo": Command("escnet.miniature.__main__", "draw pictures, train a small ESC-Net, make a page of what it does"),
    "predict": Command("escnet.commands.predict", "segment photographs into any words"),
    "app": Command("escnet.commands.app", "segment photographs on a page in the browser"),
    "export": Command("escnet.commands.export", "write a model as ONNX, which runs without PyTorch"),
    "tune": Command("escnet.commands.tune", "fine-tune a model on labelled images of one's own"),
    "label_corpus": Command("escnet.commands.label_corpus", "label a collection of any size, on one machine or many"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        return run_program(lambda: print(usage()))
    if name == "--version":
        return run_program(lambda: print(f"escnet {__version__}"))
    if name not in COMMANDS:
        return refuse("escnet", f"there is no command {name}; there are {', '.join(COMMANDS)}")
    return run_program(lambda: import_module(COMMANDS[name].module).main(rest), f"escnet {name}")


def usage() -> str:
    """What --help says."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {command.purpose}" for name, command in COMMANDS.items())
    return (
        f"usage: python -m escnet COMMAND ...\n\nOpen-vocabulary segmentation: image + words → masks.\n\n{commands}\n\n"
        "python -m escnet COMMAND --help says what a command takes; --version, which escnet this is."
    )


if __name__ == "__main__":
    sys.exit(main())
