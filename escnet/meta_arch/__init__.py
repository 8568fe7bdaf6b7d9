"""The systems of the house, registered with Detectron2 on import."""

from escnet.meta_arch.clip_guided_sam import ClipGuidedSam
from escnet.meta_arch.clip_then_sam import ClipThenSam
from escnet.meta_arch.cost_aggregation import CostAggregation
from escnet.meta_arch.dense_clip import DenseClip
from escnet.meta_arch.esc_net import ESCNet
from escnet.meta_arch.sam_clip import SamClip

__all__ = ["ClipGuidedSam", "ClipThenSam", "CostAggregation", "DenseClip", "ESCNet", "SamClip"]
