"""Print the parameters and GFLOPs of a model, part by part, beside the figures of the literature.

    python tools/model_info.py --config-file configs/escnet/vitl14.yaml [--num-classes 150] [KEY VALUE ...]

Needs no weights: the model is built with random ones.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from escnet.command_line import CommandParser, refuse, run_program

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from escnet.complexity import PartInfo
    from escnet.meta_arch import ESCNet
    from escnet.meta_arch.interfaces import SegmentingModel

# What is imported in functions takes seconds, and --help and mistyped options should not.
LITERATURE_CLIP = "ViT-L-14"
LITERATURE_PARAMETERS = 451e6
LITERATURE_FLOPS = 2203.5e9
# A difference from the literature beyond this is explained.
TOLERANCE = 0.05
COCO_STUFF_CLASSES = 171
TRACED_CHUNK = 64


def counting_config(path: str | None, overrides: Sequence[str], model: str | None = None) -> CfgNode:
    """A configuration on the CPU for which no weights are read."""
    from escnet.pretrained.random_weights import RANDOM, random_weights
    from escnet.publishing.chosen_models import chosen_config_alone

    cfg = random_weights(chosen_config_alone(model, path, overrides))
    cfg.MODEL.WEIGHTS = RANDOM
    cfg.MODEL.DEVICE = "cpu"
    # Larger chunks leave fewer operators to trace.
    cfg.MODEL.ESC.CLASS_CHUNK = TRACED_CHUNK
    return cfg


def build(cfg: CfgNode) -> SegmentingModel:
    """The model of a configuration with random weights."""
    from detectron2.modeling import META_ARCH_REGISTRY

    import escnet.meta_arch  # noqa: F401  (registers the systems)

    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).eval()


def other_ways_to_count(cfg: CfgNode, model: ESCNet, infos: Sequence[PartInfo], classes: int) -> dict[str, float]:
    """What a plain implementation spends beyond ours, in multiply-adds, by what is done plainly."""
    import torch

    from escnet.complexity import count
    from escnet.pretrained.sam import build_sam_decoder, sam_size

    flops = {info.name: info.flops for info in infos}
    esc, grid = cfg.MODEL.ESC, [side // model.clip_image.patch_size for side in cfg.MODEL.CLIP.IMAGE_SIZE]
    extra = {}

    text = model.clip_text
    tokens = torch.zeros(1, text.context_length, text.positional_embedding.shape[1])
    full_text = classes * count(text.transformer, tokens).total()
    extra[f"every text at all {text.context_length} positions, as CLIP runs it"] = (
        full_text - flops["CLIP text encoder"]
    )

    if model.prompt_encoder is not None:
        _, transformer = build_sam_decoder(cfg.MODEL.SAM.NAME, "")
        dim = sam_size(cfg.MODEL.SAM.NAME).channels
        image = torch.zeros(1, dim, *grid)
        per_class = count(transformer, image, image, torch.zeros(1, esc.NUM_PROMPTS, dim)).total()
        as_written = len(model.blocks) * classes * per_class
        extra["the SAM block computed as segment_anything does"] = as_written - flops["SAM blocks"]
        extra[f"if each of the {esc.NUM_PROMPTS} objects of a class goes through the SAM block alone"] = (
            esc.NUM_PROMPTS - 1
        ) * as_written

    if esc.CLASS_MERGE != "per_class":
        fusions = [block.fusion for block in model.blocks]
        projections = [f.embed_features for f in fusions] + [block.guidance for f in fusions for block in f.swin]
        per_class = math.prod(grid) * sum(p[1].weight.numel() for p in projections if p is not None)
        extra["F_v' projected for each class in the fusion, not once"] = (classes - 1) * per_class
    return extra


def report(infos: Sequence[PartInfo], whole: PartInfo) -> str:
    """The table."""
    lines = [f"{'part':<26}{'parameters/M':>14}{'trainable/M':>14}{'GFLOPs':>10}"]
    for info in (*infos, whole):
        lines.append(
            f"{info.name:<26}{info.parameters / 1e6:>14.3f}{info.trainable / 1e6:>14.3f}{info.flops / 1e9:>10.2f}"
        )
    return "\n".join(lines)


def compare(whole: PartInfo, image: PartInfo, extra: dict[str, float], classes: int) -> str:
    """Set the model beside the literature, and account for a difference in GFLOPs beyond `TOLERANCE`."""
    lines = [
        f"{'literature (ViT-L/14)':<26}{LITERATURE_PARAMETERS / 1e6:>14.0f}{'':>14}{LITERATURE_FLOPS / 1e9:>10.1f}"
    ]
    more = whole.parameters / LITERATURE_PARAMETERS - 1
    lines.append(f"{'difference':<26}{more:>+14.1%}{'':>14}{whole.flops / LITERATURE_FLOPS - 1:>+10.1%}")
    if abs(more) > TOLERANCE:
        lines.append(
            f"The parameters differ by {(whole.parameters - LITERATURE_PARAMETERS) / 1e6:+.1f} M: see the parts."
        )
    if abs(whole.flops / LITERATURE_FLOPS - 1) <= TOLERANCE:
        return "\n".join(lines)
    lines += [
        "",
        "The literature states neither its number of classes nor what it counts. What a plain implementation would",
        "spend beyond the count above (GFLOPs; running total; difference from the literature):",
    ]
    total = whole.flops
    for what, flops in extra.items():
        total += flops
        lines.append(_addition(what, flops, total))
    if classes != COCO_STUFF_CLASSES:
        # All but the image encoder grows in proportion to the classes.
        flops = (total - image.flops) * (COCO_STUFF_CLASSES / classes - 1)
        lines.append(_addition(f"if it counts {COCO_STUFF_CLASSES} classes (COCO-Stuff)", flops, total + flops))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = CommandParser(description="Parameters and GFLOPs of a model, part by part.")
    parser.add_model_options(weights=None)
    parser.add_argument("--num-classes", type=int, default=150, help="size of the vocabulary (default: 150)")
    parser.add_config_keys("changes to the config")
    args = parser.parse_args(arguments)
    if args.num_classes < 1:
        parser.error(f"--num-classes must be at least 1, got {args.num_classes}")

    import torch

    from escnet.complexity import count_model, describe, whole_model
    from escnet.config import ConfigError
    from escnet.meta_arch import ESCNet
    from escnet.pretrained.files import WeightsError
    from escnet.vocabulary import Vocabulary

    try:
        cfg = counting_config(args.config_file, args.opts, args.model)
    except (ConfigError, WeightsError) as error:
        sys.exit(refuse("model_info.py", error))
    torch.manual_seed(0)
    model = build(cfg)
    vocabulary = Vocabulary([f"object {index}" for index in range(args.num_classes)])
    height, width = model.inference.image_size
    image = torch.randn(1, 3, height, width)
    flops = count_model(model, vocabulary, image)
    infos, whole = describe(model, flops.by_module), whole_model(model, flops.by_module)

    print(f"{args.model or args.config_file}: {cfg.MODEL.META_ARCHITECTURE}, {cfg.MODEL.CLIP.NAME}")
    print(f"One image of {height}x{width}, {args.num_classes} classes, whole-image pass\n")
    print(report(infos, whole))
    if isinstance(model, ESCNet) and not model.is_merged:
        if cfg.MODEL.CLIP.NAME.startswith(LITERATURE_CLIP):
            print(compare(whole, infos[0], other_ways_to_count(cfg, model, infos, args.num_classes), args.num_classes))
        else:
            print(
                f"(The literature gives only ViT-L/14: {LITERATURE_PARAMETERS / 1e6:.0f} M parameters, "
                f"{LITERATURE_FLOPS / 1e9:.1f} GFLOPs.)"
            )
    text = next(info for info in infos if info.name == "CLIP text encoder")
    print("\nOne multiply-add is one FLOP (fvcore). Counted: matrix products, convolutions, attention, norms, bilinear")
    print(f"resizing. Not counted: k-means and element-wise operations ({', '.join(flops.uncounted[:6])}, ...).")
    again = (whole.flops - text.flops) / 1e9
    print(f"The text encoder runs once for a vocabulary; each further image takes {again:.2f} GFLOPs.")


def _addition(what: str, flops: float, total: float) -> str:
    return f"  {flops / 1e9:>+8.1f} {total / 1e9:>8.1f} {total / LITERATURE_FLOPS - 1:>+7.1%}  {what}"


if __name__ == "__main__":
    sys.exit(run_program(main))
