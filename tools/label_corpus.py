"""Label a collection of a million pictures, from a copy of the repository; see escnet/commands/label_corpus.py."""

from __future__ import annotations

import sys

from escnet.command_line import run_program
from escnet.commands.label_corpus import main

if __name__ == "__main__":
    sys.exit(run_program(main))
