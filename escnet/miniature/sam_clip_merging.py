"""Other ways to merge the small SAM and CLIP: averages of SAM and of a SAM that CLIP taught (SAM-CLIP, sec. B)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from escnet.data.registration import dataset_records
from escnet.evaluation.probing.importance import hidden_state_importance
from escnet.miniature.experiments import digest
from escnet.miniature.sam_clip_experiments import Chain, Laboratory, Row
from escnet.predictor import Segmenter
from escnet.pretrained.common_parts import sam_as_sam_clip
from escnet.pretrained.merging import interpolate, unit_mean, weighted_average
from escnet.pretrained.reading import load_checkpoint, read_weights

# Pictures of which the importance of weights is estimated, which no model was trained on with words or masks.
PICTURES = "mojiscenes_train[:200]"


@dataclass(frozen=True)
class Average(Row):
    """(1 - α) SAM + α tuned, weight by weight; what SAM has not, the CLIP head, stays the tuned one's.

    Attributes:
        name: of the row.
        tuned: without SAM's pictures.
        alpha: α, 0 to 1.
        by_importance: each weight counts as much as the hidden state of its model depends on it.
    """

    name: str
    tuned: Chain
    alpha: float
    by_importance: bool = False

    def identity(self, laboratory: Laboratory, seed: int) -> str:
        return digest(self.tuned.identity(laboratory, seed), self.alpha, self.by_importance)

    def model(self, laboratory: Laboratory, seed: int) -> nn.Module:
        cfg, weights = laboratory.settings(self.tuned, seed)[-1], laboratory.train(self.tuned, seed)
        tuned = load_checkpoint(weights)
        sam = sam_as_sam_clip(read_weights(cfg.MODEL.SAM.WEIGHTS), tuned)
        model = Segmenter.from_config(cfg, str(weights)).model
        model.load_state_dict(
            self._merge(model, sam, tuned) if self.by_importance else interpolate(sam, tuned, self.alpha)
        )
        return model.eval()

    def _merge(self, model: nn.Module, sam: dict[str, Tensor], tuned: dict[str, Tensor]) -> dict[str, Tensor]:
        files = [record["file_name"] for record in dataset_records(PICTURES)]
        importances = []
        for weights, state in ((sam, "backbone"), (tuned, "both")):
            model.load_state_dict(weights)
            importances.append(unit_mean(hidden_state_importance(model, files, state, model.image_size[0])))
        return weighted_average(sam, tuned, *importances, self.alpha)
