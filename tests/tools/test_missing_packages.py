"""Each script in tools/, run as it is typed where detectron2 is missing, says in one line how to install it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from escnet.optional_packages import INSTALL_DETECTRON2
from tests.warm_process import WarmProcesses

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "tools").rglob("*.py"), *(ROOT / "datasets").glob("*.py")])
TOOLS = sorted((ROOT / "tools").glob("*.py"))
MODEL, CONFIG, OUTPUT = (
    ("--model", "shipped:esc_net"),
    ("--config-file", "configs/escnet/vitb16.yaml"),
    ("--output", "TMP/x"),
)
# What makes each read its options and begin; nothing that is named needs to be there.
ARGUMENTS = {
    "app": (),
    "benchmark": (),
    "benchmark_evaluation": (),
    "benchmark_export": (*MODEL, "--exported", "x", "--dataset", "camvid_val"),
    "benchmark_loader": (),
    "benchmark_merged": (),
    "benchmark_words": (),
    "check_dataset": ("camvid_val",),
    "compare_runs": ("a", "b"),
    "compare_systems": ("configs/comparison/full.yaml", *OUTPUT),
    "embed_teacher": ("--shards", "x"),
    "estimate_distillation": (),
    "estimate_training": CONFIG,
    "eval_classification": (*MODEL, "--images", "x", *OUTPUT),
    "eval_instances": (*MODEL, "--images", "x", "--annotations", "x", *OUTPUT),
    "eval_zero_shot": (*MODEL, "--benchmarks", "a150"),
    "export": (*MODEL, *OUTPUT),
    "label_corpus": (*MODEL, "--input", "tests", "--words", "a, b", *OUTPUT),
    "make_shards": ("tests", *OUTPUT),
    "merge_weights": ("shipped:sam", "shipped:sam", "--output", "TMP/x.pth"),
    "model_info": CONFIG,
    "predict": (*MODEL, "--input", "LICENSE", "--vocabulary", "a, b", *OUTPUT),
    "probe": (*MODEL, "--classification", "x", "x"),
    "train_net": CONFIG,
    "tune": (*MODEL, "--data", "camvid_train"),
    "weight_importance": (*MODEL, "--input", "LICENSE", "--output", "TMP/x.pth"),
    "wise_ft": (*CONFIG, "--tuned", "x", "--classification", "x", "--images", "x", "--annotations", "x", *OUTPUT),
}
# They read and write files, for which it is not needed.
WITHOUT_IT = ("embed_teacher", "merge_weights")
PROGRAM = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "detectron2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def without() -> Iterator[WarmProcesses]:
    """Starts processes that have imported what takes seconds, but for detectron2."""
    processes = WarmProcesses(("escnet.pretrained.reading", "escnet.data.images", "tabulate"))
    yield processes
    processes.close()


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_how_to_install_detectron2(tool: Path, without: WarmProcesses, tmp_path: Path) -> None:
    program, log = tmp_path / "program.py", tmp_path / "log.txt"
    program.write_text(PROGRAM)
    arguments = [argument.replace("TMP", str(tmp_path)) for argument in ARGUMENTS[tool.stem]]
    ended = without.start(log, program, str(tool), *arguments).wait(timeout=60)
    said = log.read_text()
    assert "Traceback" not in said
    if tool.stem in WITHOUT_IT:
        assert "is not installed" not in said
        return
    remedy = "detectron2 is not installed, and pip alone does not find one for this Python: "
    assert (ended, said.splitlines()[-1]) == (2, f"{tool.name}: {remedy}{INSTALL_DETECTRON2}")


def test_each_script_is_started_in_the_same_way() -> None:
    ending = '\n\nif __name__ == "__main__":\n    sys.exit(run_program(main))\n'
    assert not [script.name for script in SCRIPTS if not script.read_text(encoding="utf-8").endswith(ending)]


def test_configuration_keys_are_read_in_one_place() -> None:
    files = [*SCRIPTS, *(ROOT / "escnet").rglob("*.py")]
    found = [file for file in files if "argparse.REMAINDER" in file.read_text(encoding="utf-8")]
    assert found == [ROOT / "escnet" / "command_line.py"]
