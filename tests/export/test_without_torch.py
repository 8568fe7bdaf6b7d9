"""An exported model in a process that has no PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from escnet import Segmenter
from escnet.export.comparison import made_pictures

PROGRAM = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "detectron2", "open_clip", "segment_anything"):
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


def test_a_process_that_refuses_torch_gives_the_same_labels(
    exported: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    from PIL import Image

    pixels = made_pictures(seed=5)[1]
    Image.fromarray(pixels).save(tmp_path / "image.png")
    found = tmp_path / "labels.npy"
    command = [sys.executable, "-c", PROGRAM, str(exported), str(tmp_path / "image.png"), str(found)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"]
    wanted = segmenter(pixels, "cat, tree|bush, house", background="sky").labels
    assert (np.load(found) == wanted).mean() > 0.999
