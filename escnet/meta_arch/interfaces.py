"""The interfaces of models: segmenting by words, drawing masks from prompts, and naming whole images.

Whatever trains, evaluates, measures or shows models knows these alone, by this module. All take raw pixels, RGB in
0..255, which each model resizes and normalises itself, and encode an image once for as many words or prompts as are
asked for.
"""

from escnet.meta_arch.classifying import ClassifyingModel
from escnet.meta_arch.image_size import resize
from escnet.meta_arch.promptable import AskedWords, MaskPrediction, PromptableModel, Prompts
from escnet.meta_arch.segmenting import (
    InferenceOptions,
    LearningPart,
    SegmentingModel,
    common_vocabulary,
)

__all__ = [
    "AskedWords",
    "ClassifyingModel",
    "InferenceOptions",
    "LearningPart",
    "MaskPrediction",
    "PromptableModel",
    "Prompts",
    "SegmentingModel",
    "common_vocabulary",
    "resize",
]
