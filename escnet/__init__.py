"""escnet: open-vocabulary semantic segmentation, any image into any words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from escnet.detectron2_import import silence_scripting
from escnet.optional_packages import require_detectron2
from escnet.vocabulary import Vocabulary

if TYPE_CHECKING:
    from escnet.exported.programs import ProgramSegmenter
    from escnet.exported.segmenter import OnnxSegmenter
    from escnet.predictor import Segmenter
    from escnet.word_prompts import WordPrompts

__version__ = "0.1.0"
__all__ = ["OnnxSegmenter", "ProgramSegmenter", "Segmenter", "Vocabulary", "WordPrompts", "__version__"]

silence_scripting()


def __getattr__(name: str) -> Any:
    # Detectron2 takes seconds to import; `import escnet` alone does not need it.
    if name in ("Segmenter", "WordPrompts"):
        require_detectron2()
    if name == "Segmenter":
        from escnet.predictor import Segmenter

        return Segmenter
    if name == "OnnxSegmenter":
        from escnet.exported.segmenter import OnnxSegmenter

        return OnnxSegmenter
    if name == "ProgramSegmenter":
        from escnet.exported.programs import ProgramSegmenter

        return ProgramSegmenter
    if name == "WordPrompts":
        from escnet.word_prompts import WordPrompts

        return WordPrompts
    raise AttributeError(f"module 'escnet' has no attribute {name!r}")
