"""Zero-shot retrieval: images find their captions, and captions their images (Radford et al., sec. E.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from escnet.data.captions import Captions
from escnet.evaluation.classification import Recalls, retrieval_recalls
from escnet.evaluation.embeddings import EmbeddingOptions, EmbeddingStore, embed_images
from escnet.meta_arch.interfaces import ClassifyingModel


@dataclass(frozen=True)
class RetrievalScores:
    """How well images and captions find each other.

    Attributes:
        recalls: R@1, R@5 and R@10 in both directions, in 0..1.
        images, captions: among how many.
        unreadable: how many images could not be read; they and their captions are left out.
        digest: of the image list, as of `ImageEmbeddings`.
    """

    recalls: Recalls
    images: int
    captions: int
    unreadable: int
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            "image_to_text": {f"R@{k}": share for k, share in self.recalls.image_to_text.items()},
            "text_to_image": {f"R@{k}": share for k, share in self.recalls.text_to_image.items()},
            "images": self.images,
            "captions": self.captions,
            "unreadable": self.unreadable,
            "image list sha256": self.digest,
        }


@torch.no_grad()
def evaluate_retrieval(
    model: ClassifyingModel,
    root: Path,
    captions: Captions,
    options: EmbeddingOptions | None = None,
    store: EmbeddingStore | None = None,
) -> RetrievalScores:
    """Search among images and captions. A caption finds its own image only, an image any of its own captions.

    Args:
        model: on its device.
        root: folder of the images.
        captions: of the images.
        options, store: as for `embed_images`.

    Raises:
        ValueError: as of `embed_images`.
        ResultsError: as of `EmbeddingStore`.
    """
    embeddings = embed_images(model, root, captions.images, options, store)
    kept = captions.of_images({name: index for index, name in enumerate(embeddings.names)})
    texts = model.sentence_features(kept.texts).float().cpu()
    recalls = retrieval_recalls(embeddings.features, texts, kept.owners)
    return RetrievalScores(recalls, len(kept.images), len(kept.texts), len(embeddings.unreadable), embeddings.digest)
