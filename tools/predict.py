"""Segment photographs into any words, from a copy of the repository: the same as `python -m escnet predict`."""

from __future__ import annotations

import sys

from escnet.command_line import run_program
from escnet.commands.predict import main

if __name__ == "__main__":
    sys.exit(run_program(main))
