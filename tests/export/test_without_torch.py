"""An exported model in a process that has no PyTorch, nor anything else that docs/export.md does not name."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import numpy as np

from escnet import Segmenter
from escnet.export.comparison import made_pictures

PROGRAM = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[4].split():
            raise ImportError(f"{name} is refused")

sys.meta_path.insert(0, Refusing())
import numpy as np
from escnet import OnnxSegmenter
segmenter = OnnxSegmenter(sys.argv[1], threads=1)
image = segmenter.encode(sys.argv[2])
result = image("cat, tree|bush, house", background="sky")
assert result.class_names == ("cat", "tree,bush", "house", "background")
result.save_overlay(sys.argv[3] + ".png")
np.save(sys.argv[3], result.labels)
assert image("cat").labels.max() == 0
print("torch" in sys.modules)
"""


REPOSITORY = Path(__file__).parents[2]


def refused_modules() -> set[str]:
    """The modules of all that escnet depends on, but for the packages that the page installs."""
    page = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
    named = re.search(r"^pip install (onnxruntime .*)$", page, re.MULTILINE)[1].split()
    without_extras = [entry for entry in requires("escnet") if "extra ==" not in entry]
    # NumPy comes with them.
    needed = {re.split(r"[^\w-]", entry, maxsplit=1)[0] for entry in without_extras} - {*named, "numpy"}
    found = {module for module, packages in packages_distributions().items() if needed & set(packages)}
    return found | {"detectron2"}


def test_a_process_that_refuses_torch_gives_the_same_labels(
    exported: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    from PIL import Image

    pixels = made_pictures(seed=5)[1]
    Image.fromarray(pixels).save(tmp_path / "image.png")
    found = tmp_path / "labels.npy"
    refused = refused_modules()
    assert refused >= {"torch", "open_clip", "segment_anything", "fvcore"}
    image = str(tmp_path / "image.png")
    command = [sys.executable, "-c", PROGRAM, str(exported), image, str(found), " ".join(refused)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"]
    wanted = segmenter(pixels, "cat, tree|bush, house", background="sky").labels
    assert (np.load(found) == wanted).mean() > 0.999
