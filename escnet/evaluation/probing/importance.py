"""How much a model's hidden state depends on each of its weights (Aljundi et al., "Memory aware synapses")."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from escnet.evaluation.probing.features import SquareReader
from escnet.meta_arch.representation import RepresentingModel
from escnet.pretrained.importance import squared_gradients
from escnet.progress import progress_bar

# Features in text space have length 1 whatever the weights are: the derivative of that is 0, or rounding.
_OF_TEXT = ("text", "all")


def hidden_state_importance(
    model: RepresentingModel, files: Sequence[str], name: str, image_size: int
) -> dict[str, Tensor]:
    """The mean over pictures of the squared derivative of ½ ‖hidden state‖², for each parameter. It needs no labels.

    Args:
        model: on its device; all of its parameters require gradients afterwards.
        files: of pictures.
        name: of the hidden state.
        image_size: S, pictures become S×S.

    Returns:
        fp32 tensors by the names of the parameters, 0 where the hidden state does not depend on one.

    Raises:
        ValueError: the model has no such hidden state, it is one with a part of length 1, or there is no picture.
        ImageError: a picture cannot be read.
    """
    if name in _OF_TEXT:
        raise ValueError(
            f"nothing has an importance for the length of {name!r}: features in text space have length 1 with any "
            "weights; take backbone, head or both"
        )
    model.requires_grad_(True)
    model.check_representation(name)
    read, device = SquareReader(image_size), next(model.parameters()).device

    def losses(model: RepresentingModel, file: str) -> Tensor:
        states = model.representation(read(file)[None].to(device), name)
        return 0.5 * states.float().square().sum(dim=(1, 2, 3))

    return squared_gradients(model, progress_bar(files, total=len(files), desc="importance", unit="image"), losses)
