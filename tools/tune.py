"""Fine-tune a model on labelled images, from a copy of the repository: the same as `python -m escnet tune`."""

from __future__ import annotations

import sys

from escnet.command_line import run_program
from escnet.commands.tune import main

if __name__ == "__main__":
    sys.exit(run_program(main))
