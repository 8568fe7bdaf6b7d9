"""What a model for use can do with folders and the hub: be read from them, and be written to them."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from detectron2.config import CfgNode
from torch import Tensor

from escnet.config import load_config
from escnet.pretrained.hub import parse_reference
from escnet.publishing.chosen_models import refuse_weights
from escnet.publishing.found_models import card_of_shipped, find_model
from escnet.publishing.hub_upload import push_folder
from escnet.publishing.model_folder import ModelFolder, write_model_folder

if TYPE_CHECKING:
    from escnet.meta_arch.interfaces import SegmentingModel

Self = TypeVar("Self", bound="PublishedModel")


class PublishedModel(ABC):
    """A model that was built from a configuration, which it knows: `Segmenter`'s part for folders and the hub.

    Attributes:
        model: the model itself.
        cfg: how it was built; None for a model that was built otherwise, which cannot be saved.
        source: where it came from: "hub:owner/name@COMMIT", a path, "shipped:NAME"; "" if that is not known.
    """

    model: SegmentingModel
    cfg: CfgNode | None = None
    source: str = ""

    @classmethod
    @abstractmethod
    def _built(
        cls: type[Self], cfg: CfgNode, device: str | torch.device | None, weights: Mapping[str, Tensor], source: str
    ) -> Self:
        """Build the model of a configuration and load weights into it; `Segmenter` says how."""

    @classmethod
    def from_pretrained(
        cls: type[Self],
        name: str | os.PathLike,
        opts: Sequence[str] = (),
        device: str | torch.device | None = None,
        token: str | None = None,
    ) -> Self:
        """A trained model from a folder, from the Hugging Face hub, or of those that ship with the package.

            Segmenter.from_pretrained("hub:owner/name@v1")

        What comes from elsewhere is read as numbers and words; nothing in it is run, and its hash is checked.

        Args:
            name: the path of a folder that `save_pretrained` wrote, "hub:owner/name[@revision]", "shipped:esc_net" ...
            opts: KEY, VALUE, KEY, VALUE ... to set in its configuration.
            device: as for `from_config`.
            token: for the hub, of an account that may read a private model; else the one that `hf auth login` stored.

        Raises:
            WeightsError: there is no such model, it cannot be fetched, or it is damaged.
            ConfigError: its configuration cannot be used, or MODEL.WEIGHTS is set.
        """
        refuse_weights(opts)
        return cls.from_model_folder(find_model(name, token), opts=opts, device=device)

    @classmethod
    def from_model_folder(
        cls: type[Self],
        found: ModelFolder,
        cfg: CfgNode | None = None,
        opts: Sequence[str] = (),
        device: str | torch.device | None = None,
    ) -> Self:
        """Build a model that `find_model` found; its configuration is `cfg`, if that was changed since."""
        cfg = load_config(found.cfg if cfg is None else cfg, opts)
        # Before anything else is built: a wrong base should not cost the user a minute.
        tensors = found.tensors(cfg)
        cfg.MODEL.WEIGHTS = str(found.weights)
        segmenter = cls._built(cfg, device, tensors, str(found.weights))
        segmenter.source = found.source
        return segmenter

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        card: Mapping[str, Any] | None = None,
        delta: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Write the model as a folder: config.yaml, model.safetensors, escnet.json with their hashes, README.md.

            segmenter.save_pretrained("street", card={"license": "apache-2.0", "figures": {"miou": {"val": 61.2}}})

        Args:
            folder: appears complete or not at all.
            card: what you say of the model in README.md: title, description, license, datasets, tags, language,
                figures, training, limitations, authors, citation. Nothing is said that is not given or known.
            delta: write delta.safetensors in place of the weights, the exact difference to the public CLIP and SAM of
                the configuration, from which the weights are restored to the last bit.
            overwrite: replace the folder if it is that of a model; any other folder is never replaced.

        Raises:
            ValueError: the model was not built from a configuration, or the card or configuration cannot be used.
            FileExistsError: there is such a folder.
            WeightsError: a delta is asked for, but the configuration names no public CLIP or SAM, or it cannot be had.
            OSError: it cannot be written; nothing is left.
        """
        self._write(folder, card, delta, overwrite, "")

    def push_to_hub(
        self,
        name: str,
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
        card: Mapping[str, Any] | None = None,
        delta: bool = False,
        message: str = "Model written by escnet",
    ) -> str:
        """Write the model to the Hugging Face hub in one commit; returns the address of the commit.

        Args:
            name: "owner/name"; the repository is made if it is missing, and keeps its history if it is there.
            private: of a repository that is made.
            token: of an account that may write there; else the one that `hf auth login` stored.
            revision: a branch, made if it is missing; else the main one.
            card, delta: as for `save_pretrained`.
            message: of the commit.

        Raises:
            ValueError, WeightsError: as `save_pretrained`; a WeightsError too if the hub cannot be reached or refuses.
        """
        reference = parse_reference(f"{name}@{revision}" if revision else name)
        with tempfile.TemporaryDirectory() as above:
            folder = Path(above) / "model"
            self._write(folder, card, delta, False, str(reference))
            return push_folder(folder, reference, private, token, message)

    def _write(
        self, folder: str | os.PathLike, card: Mapping[str, Any] | None, delta: bool, overwrite: bool, address: str
    ) -> None:
        if self.cfg is None:
            raise ValueError("this model was not built from a configuration; use from_config or from_pretrained")
        card = {**card_of_shipped(self.source), **(card or {})}
        write_model_folder(folder, self.cfg, self.model.state_dict(), card, delta, overwrite, address)
