"""Open the page of escnet, from a copy of the repository: the same as `python -m escnet app`."""

from __future__ import annotations

import sys

from escnet.command_line import run_program
from escnet.commands.app import main

if __name__ == "__main__":
    sys.exit(run_program(main))
