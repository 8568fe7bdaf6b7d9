"""Write a trained model as ONNX graphs, from a copy of the repository: which run without PyTorch."""

from __future__ import annotations

import sys

from escnet.command_line import run_program
from escnet.commands.export import main

if __name__ == "__main__":
    sys.exit(run_program(main))
