"""The models that the page offers: each is loaded when it is first asked for, and then serves all users."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from escnet.predictor import Segmenter

CONFIGS = Path(__file__).parents[1] / "configs" / "mojiscenes"


@dataclass(frozen=True)
class OfferedModel:
    """One entry of the list of models.

    Attributes:
        name: in the list.
        config: the path of a configuration; None for a published model, which `weights` names.
        weights: a checkpoint, or "shipped:NAME"; None for MODEL.WEIGHTS of the configuration.
        opts: KEY, VALUE ... to set in the configuration.
    """

    name: str
    config: Path | None
    weights: str | None = None
    opts: tuple[str, ...] = ()


SHIPPED = (
    OfferedModel("ESC-Net", CONFIGS / "escnet.yaml", "shipped:esc_net"),
    OfferedModel("SAM-CLIP", CONFIGS / "sam_clip.yaml", "shipped:sam_clip"),
    OfferedModel("CLIP-Guided SAM", CONFIGS / "clip_guided_sam.yaml", "shipped:clip_guided_sam"),
)


def offered_models(
    config: str | None, weights: str | None, opts: Sequence[str] = (), model: str | None = None
) -> tuple[OfferedModel, ...]:
    """The shipped models, and before them a published one, or that of a user's own configuration, if there is one."""
    if model is not None:
        # Of a folder its own name.
        name = Path(model).resolve().name if Path(model).is_dir() else model
        return (OfferedModel(name, None, model, tuple(opts)), *SHIPPED)
    if config is None:
        return SHIPPED
    return (OfferedModel(Path(config).stem, Path(config), weights, tuple(opts)), *SHIPPED)


class LoadedModels:
    """The models by their names.

    Args:
        offered: in the order of the list.
        device: as for `Segmenter.from_config`; None to choose.
    """

    def __init__(self, offered: Sequence[OfferedModel], device: str | None = None) -> None:
        self._offered = {model.name: model for model in offered}
        self._device = device
        self._loaded: dict[str, Segmenter] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """In the order of the list."""
        return list(self._offered)

    def segmenter(self, name: str) -> Segmenter:
        """The model of this name, loaded if it is not yet.

        Raises:
            ValueError: there is none of this name; and what `Segmenter.from_config` and `from_pretrained` raise.
        """
        if name not in self._offered:
            raise ValueError(f'there is no model "{name}"; there are {", ".join(self._offered)}')
        # Under the lock, so that two users who come at once do not load it twice.
        with self._lock:
            if name not in self._loaded:
                from escnet.predictor import Segmenter

                model = self._offered[name]
                if model.config is None:
                    segmenter = Segmenter.from_pretrained(model.weights, model.opts, self._device)
                else:
                    segmenter = Segmenter.from_config(model.config, model.weights, model.opts, self._device)
                self._loaded[name] = segmenter
            return self._loaded[name]
