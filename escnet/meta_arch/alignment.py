"""Start the projection of CLIP's features where SAM's decoder understands them.

SAM's decoder was trained on the features of SAM's own image encoder. ESC-Net gives it CLIP's, through a projection that
starts at random, so that what the decoder knows is of no use until the projection has been learned through it. But
CLIP's dense features predict SAM's well, linearly: least squares on a few images, without any label, finds the
projection from which the pretrained decoder can be used from the first step on. Not in the paper.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from escnet.layers.image_projection import ImageProjection
from escnet.meta_arch.interfaces import SegmentingModel, resize
from escnet.meta_arch.sam import sam_features
from escnet.pretrained.sam import build_sam

logger = logging.getLogger(__name__)
# Of the mean square of a feature: keeps the solution finite where features hardly vary.
_RIDGE = 1e-4


def align_from_config(cfg: CfgNode, model: SegmentingModel, images: Callable[[int], Iterable[Tensor]]) -> None:
    """Align the projections of an ESC-Net on MODEL.SAM.ALIGN_IMAGES images, unless a checkpoint brought them.

    One process computes, and all of them have its result. Nothing is done for a SAM block that is not pretrained.

    Args:
        cfg: the config of the training.
        model: the ESC-Net of that config; it is changed in place, and left in evaluation mode.
        images: gives so many of the training images, raw (3, H, W).

    Raises:
        ValueError: there is no projection of CLIP's features.
        WeightsError: SAM's file is missing or of another format.
    """
    sam = cfg.MODEL.SAM
    if sam.ALIGN_IMAGES <= 0 or cfg.MODEL.WEIGHTS or sam.INIT != "pretrained":
        return
    if not all(isinstance(block.project, ImageProjection) for block in model.blocks):
        raise ValueError(
            f"MODEL.SAM.ALIGN_IMAGES is {sam.ALIGN_IMAGES}, but the SAM blocks are given SAM's own features: set it to "
            "0, or MODEL.SAM_CLIP.SAM_INPUT to clip"
        )
    if comm.is_main_process():
        explained = align_projections(model, build_sam(sam.NAME, sam.WEIGHTS), images(sam.ALIGN_IMAGES))
        logger.info(f"The projections start where CLIP's features predict SAM's best: {explained:.0%} of the variance")
    if comm.get_world_size() > 1:
        for block in model.blocks:
            for parameter in block.project.parameters():
                torch.distributed.broadcast(parameter.data, 0)


@torch.no_grad()
def align_projections(model: SegmentingModel, sam: Sam, images: Iterable[Tensor]) -> float:
    """Set the projection of each ESC block to the linear map that best predicts SAM's image features from CLIP's.

    The norm after the projection becomes that of SAM's neck.

    Args:
        model: an ESC-Net with SAM blocks of the same number of channels as `sam`; it is changed in place.
        sam: the whole SAM, of which the image encoder is used.
        images: (3, H, W) pixels in 0..255, each of any size.

    Returns:
        The share of the variance of SAM's features, before the norm's own scale, that the map explains on these images.

    Raises:
        ValueError: there are no images.
    """
    model.eval()
    sam = sam.to(model.device).eval()
    norm = sam.image_encoder.neck[-1]
    products = None
    for image in images:
        inputs, targets = _features(model, sam, image.to(model.device, torch.float))
        # Where SAM's norm gives a channel no weight, there is nothing to predict.
        targets = (targets - norm.bias) / torch.where(norm.weight.abs() > 1e-6, norm.weight, torch.inf)
        inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1).double()
        both = torch.cat([inputs, targets.double()], dim=1)
        products = both.T @ both + (0 if products is None else products)
    if products is None:
        raise ValueError("the projections cannot be aligned without images")
    width = products.shape[0] - norm.weight.numel()
    gram, cross = products[:width, :width], products[:width, width:]
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(width, dtype=gram.dtype, device=gram.device)
    solution = torch.linalg.solve(gram + ridge, cross)
    for block in model.blocks:
        convolution, block_norm = block.project
        convolution.weight.copy_(solution[:-1].T[:, :, None, None])
        convolution.bias.copy_(solution[-1])
        block_norm.load_state_dict(norm.state_dict())
    # The row of ones makes sums of squares about the mean.
    total = products.diagonal()[width:] - products[width - 1, width:] ** 2 / products[width - 1, width - 1]
    error = products.diagonal()[width:] - (2 * cross * solution - solution * (gram @ solution)).sum(dim=0)
    return 1 - (error.sum() / total.sum()).item()


def _features(model: SegmentingModel, sam: Sam, image: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's dense features (cells, D) of an image (3, H, W), and SAM's (cells, C) on the same grid."""
    clip = model.encode_pixels(resize(image[None], model.inference.image_size)).dense[0]
    features = sam_features(sam, image[None])
    if features.shape[-2:] != clip.shape[-2:]:
        features = F.interpolate(features, clip.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
    return clip.flatten(1).T, features[0].flatten(1).T
