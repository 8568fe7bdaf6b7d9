#!/usr/bin/env python3
"""Embed all images of shards with CLIP's image encoder, and store the embeddings beside the shards.

    python tools/embed_teacher.py --shards shards --clip ViT-L-14 --weights openai --image-size 224
    python tools/embed_teacher.py --shards "shards/{000..123}.tar" --config-file configs/escnet/vitl14.yaml

Writes NAME.TEACHER.safetensors beside each NAME.tar: L2-normalised embeddings in half precision, keys, and what made
them. A distillation that reads them runs no teacher; in return images cannot be augmented, since the embeddings are of
whole images. What is there already is kept, so that the same command goes on where it was stopped. Exit code: 0 if all
images are embedded, 1 if some are not (they are named), 2 if nothing can be done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from escnet.command_line import refuse, run_program

if TYPE_CHECKING:
    from torch import Tensor, nn

    from escnet.data.shards.accounting import BrokenSample
    from escnet.data.shards.embeddings import Teacher
    from escnet.data.shards.index import Shard

PROGRAM = "embed_teacher.py"
PRECISIONS = ("fp32", "bf16", "fp16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    # What is imported in functions takes seconds, and --help and mistyped options should not.
    from escnet.data.shards.index import find_shards
    from escnet.pretrained.files import WeightsError
    from escnet.safe_files import DiskFullError

    try:
        shards = find_shards(args.shards)
        teacher, encode = load_teacher(args)
        outcome = embed_all(shards, teacher, encode, args.batch_size, args.workers)
    except DiskFullError as error:
        return refuse(PROGRAM, f"{error}; what is finished is kept", code=1)
    except (ValueError, TypeError, WeightsError, OSError) as error:
        return refuse(PROGRAM, error)
    except KeyboardInterrupt:
        return refuse(f"\n{PROGRAM}", "stopped; the same command goes on from here", code=130)
    print_summary(outcome, teacher)
    return 1 if outcome.broken else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", required=True, nargs="+", metavar="PATH", help="folders, or shards with braces")
    parser.add_argument(
        "--config-file", metavar="YAML", help="whose MODEL.CLIP is the teacher, at DISTILL.CLIP.TEACHER_SIZE"
    )
    parser.add_argument("--clip", metavar="NAME", help="or a model of open_clip, such as ViT-L-14")
    parser.add_argument(
        "--weights", metavar="W", help='its weights: a tag, a file, shipped:NAME, or "" for random ones'
    )
    parser.add_argument("--image-size", type=int, metavar="PX", help="side of the squares (default: the model's)")
    parser.add_argument("--teacher", metavar="NAME", help="in the names of the files (default: the model's name)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="B", help="(default: 64)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that decode (default: 1)")
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the teacher (default: fp32)")
    args = parser.parse_args(arguments)
    if bool(args.config_file) == bool(args.clip):
        parser.error("one of --config-file and --clip says what the teacher is")
    if args.clip and args.weights is None:
        parser.error('--clip needs --weights: a tag, a file, shipped:NAME, or "" for random ones')
    if args.batch_size < 1 or args.workers < 0 or (args.image_size is not None and args.image_size < 2):
        parser.error("--batch-size is 1 or more, --workers is not negative, --image-size is 2 or more")
    return args


def load_teacher(args: argparse.Namespace) -> tuple[Teacher, Callable[[Tensor], Tensor]]:
    """What embeds, and the function that does: (B,3,S,S) uint8 images to (B,D) embeddings of length 1 on the CPU.

    Raises:
        ValueError: a configuration, a device or a name is wrong, or the images do not fit the model.
        TypeError: the model has no image encoder of the right kind.
        WeightsError: the model or its weights are not there.
    """
    import torch

    from escnet.data.shards.embeddings import Teacher, check_teacher_name
    from escnet.devices import usable_device
    from escnet.evaluation.runs.conditions import weights_sha256
    from escnet.pretrained.clip import build_clip

    name, weights, size = args.clip, args.weights, args.image_size
    if args.config_file:
        from escnet.config import load_config

        cfg = load_config(args.config_file)
        name, weights = cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.WEIGHTS if weights is None else weights
        size = size or cfg.DISTILL.CLIP.TEACHER_SIZE
    teacher_name = args.teacher or name.replace("/", "-")
    check_teacher_name(teacher_name)
    device = usable_device(args.device, "cuda")
    torch.manual_seed(0)  # of random weights
    clip, _ = build_clip(name, weights)
    size = size or square_side(clip.visual.image_size)
    encode = encoder(clip.visual, device, args.precision)
    dim = encode(torch.zeros(1, 3, size, size, dtype=torch.uint8)).shape[1]
    return Teacher(teacher_name, weights_sha256(clip.visual), size, dim), encode


def square_side(size: int | Sequence[int]) -> int:
    """The side of a square image size.

    Raises:
        ValueError: it is not square.
    """
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ValueError(f"the teacher's image size is {tuple(size)}, and no square; give --image-size")
    return sides.pop()


def encoder(visual: nn.Module, device: str, precision: str) -> Callable[[Tensor], Tensor]:
    """The function that embeds images with an image tower, on a device."""
    import torch
    from torch.nn import functional as F

    from escnet.layers.clip_image_encoder import ClipImageEncoder
    from escnet.layers.pixels import PixelNormalisation
    from escnet.precision import PRECISIONS as TYPES

    normalise = PixelNormalisation(visual.image_mean, visual.image_std).to(device)
    tower = ClipImageEncoder(visual).eval().to(device)
    kind = TYPES[precision]

    @torch.inference_mode()
    def encode(images: Tensor) -> Tensor:
        pixels = normalise(images.to(device).float())
        with torch.autocast(torch.device(device).type, dtype=kind, enabled=kind is not None):
            pooled = tower(pixels).pooled
        return F.normalize(pooled.float(), dim=-1).cpu()

    return encode


class Outcome(NamedTuple):
    """What came of it.

    Attributes:
        images: that were embedded.
        shards: whose embeddings were written.
        kept: shards that had theirs.
        size: of all files written, in bytes.
        seconds: it took.
        teacher_seconds: of these, those of the teacher's forward passes.
        broken: samples without an embedding.
    """

    images: int
    shards: int
    kept: int
    size: int
    seconds: float
    teacher_seconds: float
    broken: list[BrokenSample]


def embed_all(
    shards: Sequence[Shard], teacher: Teacher, encode: Callable[[Tensor], Tensor], batch_size: int, workers: int
) -> Outcome:
    """Embed the images of all shards that have no embeddings yet, and write those of a shard when it is complete.

    Raises:
        ShardError: a shard has embeddings of another teacher of that name.
    """
    from escnet.data.shards.embeddings import embeddings_path, write_embeddings
    from escnet.data.shards.passing import pass_over
    from escnet.progress import progress_bar

    todo = [shard for shard in shards if not is_done(shard, teacher)]
    embedded: dict[Shard, dict[str, Tensor]] = {shard: {} for shard in todo}
    broken: list[BrokenSample] = []
    images, size, forward, start = 0, 0, 0.0, time.perf_counter()
    portions = pass_over(todo, teacher.image_size, batch_size, num_workers=workers)
    total = sum(shard.samples for shard in todo)
    with progress_bar(total=total, desc=teacher.name, unit="image", disable=not todo) as bar:
        for portion in portions:
            broken += portion.broken
            if portion.keys:
                before = time.perf_counter()
                embedded[portion.shard].update(zip(portion.keys, encode(portion.images), strict=True))
                forward += time.perf_counter() - before
            images += len(portion.keys)
            bar.update(len(portion.keys) + len(portion.broken))
            if portion.is_last:
                path = embeddings_path(portion.shard, teacher.name)
                write_embeddings(path, teacher, embedded.pop(portion.shard))
                size += path.stat().st_size
    seconds = time.perf_counter() - start
    return Outcome(images, len(todo), len(shards) - len(todo), size, seconds, forward, broken)


def is_done(shard: Shard, teacher: Teacher) -> bool:
    """Whether a shard has its embeddings.

    Raises:
        ShardError: it has some of another teacher of that name.
    """
    from escnet.data.shards.accounting import ShardError
    from escnet.data.shards.embeddings import embeddings_path, read_teacher, told

    path = embeddings_path(shard, teacher.name)
    if not path.exists():
        return False
    found = read_teacher(path)
    if found != teacher:
        raise ShardError(
            f"{path}: was made by {told(found)}, not by {told(teacher)}; give this one another name with --teacher, or "
            "remove the files"
        )
    return True


def print_summary(outcome: Outcome, teacher: Teacher) -> None:
    """How much was done, how fast, and what could not be."""
    kept = f"; {outcome.kept} shards had their embeddings" if outcome.kept else ""
    print(f"{outcome.images} images of {outcome.shards} shards embedded, {len(outcome.broken)} are broken{kept}")
    for sample in outcome.broken:
        print(f"  {sample.shard}, {sample.key}: {sample.reason}")
    if outcome.images:
        print(
            f"{outcome.images / outcome.seconds:.1f} images/s; the teacher takes "
            f"{1e3 * outcome.teacher_seconds / outcome.images:.2f} ms an image; {outcome.size / 2**20:.2f} MiB, "
            f"{outcome.size / outcome.images:.0f} bytes an image of {teacher.dim} numbers"
        )


if __name__ == "__main__":
    sys.exit(run_program(main))
