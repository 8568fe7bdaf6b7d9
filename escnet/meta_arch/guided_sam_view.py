"""CLIP-Guided SAM with a word in it as segment_anything's own model, for what knows that alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segment_anything.modeling import Sam
from torch import Tensor, nn

from escnet.vocabulary import Vocabulary

if TYPE_CHECKING:
    from escnet.meta_arch.clip_guided_sam import ClipGuidedSam


class WordEncoder(nn.Module):
    """An image encoder that has heard a word.

    Arguments:
      model: whose encoder it is.
      word: of one row, or None.

    Attributes:
      img_size: side of the square images, as segment_anything calls it.
      similarity: (1,h,w) of the last image with the word.
    """

    def __init__(self, model: ClipGuidedSam, word: Vocabulary | None) -> None:
        super().__init__()
        self.model, self.word = model, word
        self.img_size = model.input_size
        self.similarity: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """(1,3,S,S), normalised as SAM's are, to (1,C,h,w)."""
        pixels = images * self.model.normalise.deviation + self.model.normalise.mean
        embedding, self.similarity = self.model.embed(self.model.encode_pixels(pixels), self.word)
        return embedding


class WordPromptEncoder(nn.Module):
    """SAM's prompt encoder, which gives prompts without a mask that of the word.

    Arguments:
      encoder: where the word's similarity is found.
    """

    def __init__(self, encoder: WordEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As segment_anything's."""
        model, similarity = self.encoder.model, self.encoder.similarity
        if masks is None and similarity is not None:
            prompts = len(points[0]) if points is not None else len(boxes) if boxes is not None else 1
            masks = model.prompting.hint(similarity, model.mask_size)
            masks = None if masks is None else masks.expand(prompts, -1, -1, -1)
        return model.prompt_encoder(points, boxes, masks)

    def get_dense_pe(self) -> Tensor:
        """As segment_anything's."""
        return self.encoder.model.prompt_encoder.get_dense_pe()


def sam_of_word(model: ClipGuidedSam, word: Vocabulary | None) -> Sam:
    """See `ClipGuidedSam.as_sam`."""
    if word is not None and len(word.rows) != 1:
        raise ValueError(f"SAM is given one word at a time, and the vocabulary has {len(word.rows)}")
    own = model.prompt_encoder.input_image_size[0]
    if model.input_size != own:
        raise ValueError(
            f"MODEL.GUIDED.IMAGE_SIZE is {model.input_size}, and segment_anything's interface takes SAM's own size "
            f"alone, {own}: set it to 0"
        )
    encoder = WordEncoder(model, word)
    sam = Sam(encoder, WordPromptEncoder(encoder), model.mask_decoder)
    return sam.to(model.device).train(model.training)
