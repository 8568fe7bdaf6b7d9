"""The demonstration from a copy of the repository: the same as `python -m escnet.miniature`."""

from __future__ import annotations

import sys

from escnet.command_line import run_program
from escnet.miniature.__main__ import main

if __name__ == "__main__":
    sys.exit(run_program(main))
