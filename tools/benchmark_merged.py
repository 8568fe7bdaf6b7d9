#!/usr/bin/env python3
"""What one merged backbone costs, against the models that it is merged from: one image, four questions.

    python tools/benchmark_merged.py --config-file configs/sam_clip/base.yaml --clip ViT-B-16-quickgelu

What is in the image, what is in some boxes, where each word is, and the same refined by SAM's mask decoder: answered by
SAM-CLIP from one pass, and by SAM and CLIP apart, which look at the image once each (the last answer is ClipThenSam's).
Weights are random, which cost what trained ones cost. Each row is measured in a process of its own. All words are
refined, so that both sides answer as many prompts. Sizes are of images and masks; the text encoder is common to both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from escnet.command_line import at_least_one, run_program
from escnet.own_process import in_own_process

if TYPE_CHECKING:
    from torch import Tensor, nn

# What is imported in functions takes seconds, and --help and mistyped options should not.
PROGRAM = "benchmark_merged.py"
PRECISIONS = ("fp32", "bf16", "int8")
QUESTIONS = ("encode", "class", "boxes", "words", "words refined")
MODELS = ("apart", "merged")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="configs/sam_clip/base.yaml", help="a SAM-CLIP")
    parser.add_argument("--clip", default="ViT-B-16-quickgelu", metavar="NAME", help="the CLIP beside SAM")
    parser.add_argument(
        "--clip-size", type=at_least_one, default=448, metavar="PX", help="side of CLIP's images (default: 448)"
    )
    parser.add_argument(
        "--size", type=at_least_one, default=1024, metavar="PX", help="side of SAM's images (default: 1024)"
    )
    parser.add_argument("--words", type=at_least_one, default=10, metavar="N", help="(default: 10)")
    parser.add_argument("--boxes", type=at_least_one, default=10, metavar="P", help="(default: 10)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--repeats", type=at_least_one, default=3, help="timed runs; the median is printed")
    parser.add_argument("--threads", type=at_least_one, help="of PyTorch (default: as it chooses)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = parse(arguments)
    from escnet.training.failures import run_or_refuse

    return run_or_refuse(PROGRAM, lambda: compare(options), (ValueError,), "stopped")


def compare(arguments: argparse.Namespace) -> None:
    """Measure both sides at all precisions, and print the table.

    Raises:
        ValueError, WeightsError: something cannot be used.
    """
    import torch

    from escnet.config import load_config
    from escnet.meta_arch.image_size import fitting_size
    from escnet.pretrained.sam import sam_size

    arguments.threads = arguments.threads or torch.get_num_threads()
    cfg = load_config(arguments.config_file)
    fitting_size("--size", (arguments.size, arguments.size), sam_size(cfg.MODEL.SAM.NAME).patch_size)
    print(f"{arguments.config_file}, {arguments.threads} threads, torch {torch.__version__}, {arguments.words} words")
    rows = []
    for precision in arguments.precisions:
        for model in MODELS:
            result = in_own_process(measure, arguments, model, precision)
            seconds = [f"{result[question]:.2f}" for question in QUESTIONS]
            total = sum(result[question] for question in QUESTIONS)
            sizes = [f"{result['megabytes']:.0f}", f"{result['text megabytes']:.0f}"]
            rows.append([model, precision, *seconds, f"{total:.2f}", f"{result['memory']:.0f}", *sizes])
            print(f"  {model}, {precision}: {total:.2f} s", flush=True)
    header = ["model", "precision", *(f"{question} s" for question in QUESTIONS), "all s", "peak MiB", "MB", "text MB"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


def measure(arguments: argparse.Namespace, name: str, precision: str) -> dict[str, float]:
    """Median seconds of each step, MiB of the process beyond what it held before, and MB of the weights."""
    import torch

    from escnet.profiling import DeviceWatch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, ask = (build_merged if name == "merged" else build_apart)(arguments, precision)
    text = model.clip_text
    weights = sum(size(part) for key, part in model.named_children() if key != "clip_text")
    image = torch.randint(0, 256, (3, 768, 1024), dtype=torch.uint8)
    watch = DeviceWatch(next(model.parameters()).device)
    watch.start_memory()
    found: list[dict[str, float]] = []
    with torch.inference_mode():
        for _ in range(1 + arguments.repeats):
            found.append({question: watch.seconds(step) for question, step in ask(image).items()})
    medians = {question: statistics.median(run[question] for run in found[1:]) for question in QUESTIONS}
    return medians | {"memory": watch.most_memory(), "megabytes": weights / 1e6, "text megabytes": size(text) / 1e6}


def build_merged(arguments: argparse.Namespace, precision: str) -> tuple[nn.Module, Callable]:
    """The merged model, and its way to answer."""
    options = ["MODEL.SAM_CLIP.LABEL_MAP", "both", "MODEL.SAM_CLIP.SCORE", "0.0"]
    model = build("SamClip", arguments, precision, [*options, *side("MODEL.SAM_CLIP.IMAGE_SIZE", arguments.size)])
    if precision == "int8":
        model.backbone, model.clip_head = quantised(model.backbone), quantised(model.clip_head)
    words, prompts = vocabulary(arguments), boxes(arguments)

    def ask(image: Tensor) -> dict[str, Callable[[], Any]]:
        kept: dict[str, Any] = {}

        def words_alone() -> None:
            model.label_map = "clip"
            model.segment(kept["image"], words)
            model.label_map = "both"

        return {
            "encode": lambda: kept.update(image=model.encode(image)),
            "class": lambda: model.classify(kept["image"], words),
            "boxes": lambda: model.masks(kept["image"], prompts),
            "words": words_alone,
            "words refined": lambda: model.segment(kept["image"], words),
        }

    return model, ask


def build_apart(arguments: argparse.Namespace, precision: str) -> tuple[nn.Module, Callable]:
    """CLIP and SAM, and their way to answer."""
    from torch.nn import functional as F

    from escnet.meta_arch.clip_then_sam import ImageFeatures
    from escnet.meta_arch.dense_clip import DenseClip
    from escnet.meta_arch.interfaces import resize
    from escnet.meta_arch.sam import predict_masks, sam_features

    options = ["MODEL.CLIP.NAME", arguments.clip, *side("MODEL.CLIP.IMAGE_SIZE", arguments.clip_size)]
    model = build("ClipThenSam", arguments, precision, options)
    if precision == "int8":
        model.sam.image_encoder = quantised(model.sam.image_encoder)
    words, prompts = vocabulary(arguments), boxes(arguments)

    def ask(image: Tensor) -> dict[str, Callable[[], Any]]:
        kept: dict[str, Any] = {}

        def encode() -> None:
            pixels = resize(model.to_pixels(image), model.inference.image_size)
            with model.autocast():
                kept["clip"] = model.clip_image(model.normalise(pixels), pooled=True)
                kept["sam"] = sam_features(model.sam, model.to_pixels(image))

        def segment(kind: type, features: Any) -> None:
            with model.autocast():
                kind.segment_features(model, features, words)

        return {
            "encode": encode,
            "class": lambda: F.normalize(kept["clip"].pooled.float(), dim=-1) @ model.clip_text.encode(words).T,
            "boxes": lambda: predict_masks(model.sam, kept["sam"], prompts, False),
            "words": lambda: segment(DenseClip, kept["clip"]),
            "words refined": lambda: segment(type(model), ImageFeatures(kept["clip"], [kept["sam"]])),
        }

    return model, ask


def build(architecture: str, arguments: argparse.Namespace, precision: str, options: list[Any]) -> nn.Module:
    from detectron2.modeling import build_model

    import escnet.meta_arch  # noqa: F401  registers the systems
    from escnet.config import load_config
    from escnet.pretrained.random_weights import random_weights

    own = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.DEVICE", "cpu"]
    own += ["MODEL.PRECISION", "bf16" if precision == "bf16" else "fp32"]
    return build_model(random_weights(load_config(arguments.config_file, [*own, *options]))).eval()


def side(key: str, pixels: int) -> list[str]:
    return [key, f"({pixels}, {pixels})"]


def vocabulary(arguments: argparse.Namespace) -> Any:
    from escnet import Vocabulary

    return Vocabulary([f"thing number {i}" for i in range(arguments.words)])


def boxes(arguments: argparse.Namespace) -> Any:
    import torch

    from escnet.meta_arch.interfaces import Prompts

    corners = torch.rand(arguments.boxes, 2, 2).sort(dim=1).values * arguments.size
    return Prompts.from_boxes(corners.flatten(1))


def quantised(module: nn.Module) -> nn.Module:
    """The module with its linear layers in int8, activations quantised as they come."""
    import torch

    return torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8)


def size(module: nn.Module) -> int:
    """Bytes of a module's weights, as a file holds them."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    return buffer.tell()


if __name__ == "__main__":
    sys.exit(run_program(main))
