"""Models by name: a folder, "hub:owner/name[@revision]", or "shipped:esc_net"."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from escnet.config import SHIPPED_CONFIGS, load_config
from escnet.pretrained.files import WeightsError
from escnet.pretrained.hub import HubReference, fetch_from_hub, is_hub_reference, parse_reference
from escnet.pretrained.shipped import PREFIX, shipped_card, shipped_names, shipped_weights
from escnet.publishing.model_folder import (
    CONFIG,
    MANIFEST,
    ModelFolder,
    read_manifest,
    read_model_config,
    read_model_folder,
    weight_file,
)

# Of three trainings in a row, which its card names, none is the one for use.
_SHIPPED_CONFIGS = {"sam_clip": "configs/mojiscenes/sam_clip.yaml"}


def find_model(name: str | os.PathLike, token: str | None = None) -> ModelFolder:
    """The files of a model, fetched if need be and checked; nothing is built yet.

    Args:
        name: the path of a folder that `Segmenter.save_pretrained` wrote; "hub:owner/name",
            or "hub:owner/name@REVISION" with a branch, a tag or a commit; "shipped:esc_net" ...
        token: for the hub, of an account that may read a private model; else the one that `hf auth login` stored.

    Raises:
        WeightsError: there is no such model, or it is damaged.
        ConfigError: its configuration cannot be used.
    """
    if is_hub_reference(name):
        return _find_on_hub(parse_reference(str(name)), token)
    if str(name).startswith(PREFIX):
        return _find_shipped(str(name).removeprefix(PREFIX))
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise WeightsError(
            f"{folder}: there is no such folder; a model is one that save_pretrained wrote, hub:owner/name, or one of "
            f"{', '.join(PREFIX + model for model in _shipped_models())}"
        )
    return read_model_folder(folder)


def find_model_config(name: str | os.PathLike, token: str | None = None) -> CfgNode:
    """How a model is built, checked; of the hub, its weights are not fetched. Arguments and errors: `find_model`'s."""
    if not is_hub_reference(name):
        return find_model(name, token).cfg
    (manifest, _), _ = fetch_from_hub(parse_reference(str(name)), [MANIFEST, CONFIG], token)
    return read_model_config(manifest.parent)


def _find_on_hub(reference: HubReference, token: str | None) -> ModelFolder:
    (manifest,), commit = fetch_from_hub(reference, [MANIFEST], token)
    fixed = reference._replace(revision=commit)
    # The large file last: a configuration that cannot be used should not cost a download.
    files = [MANIFEST, CONFIG, weight_file(read_manifest(manifest))]
    paths, _ = fetch_from_hub(fixed, files, token)
    return read_model_folder(paths[0].parent, str(fixed))


def _find_shipped(name: str) -> ModelFolder:
    if name not in _shipped_models():
        models = ", ".join(PREFIX + model for model in _shipped_models())
        raise WeightsError(f'no model "{PREFIX}{name}" ships with escnet; there are {models}')
    path, card = shipped_weights(name), shipped_card(name)
    config, options = _shipped_recipe(name, card)
    # OUTPUT_DIR and SOLVER are of its training, and nothing that its user looks at.
    cfg = load_config(SHIPPED_CONFIGS.parent / config, options)
    return ModelFolder(f"{PREFIX}{name}", cfg, path, card["sha256"], (), "")


def _shipped_models() -> list[str]:
    """The shipped weights that are of a model which segments by words, by the configurations that their cards name."""
    return [name for name in shipped_names() if _shipped_recipe(name, shipped_card(name))[0]]


def _shipped_recipe(name: str, card: Mapping[str, Any]) -> tuple[str, list[str]]:
    recipe = card["recipe"]
    return _SHIPPED_CONFIGS.get(name) or recipe.get("config", ""), list(recipe.get("options", ()))


def card_of_shipped(source: str) -> dict[str, Any]:
    """What the package knows of a shipped model, as a card for its publisher; {} of any other."""
    name = source.removeprefix(PREFIX)
    if name == source or name not in _shipped_models():
        return {}
    known = shipped_card(name)
    trained_on = known["trained on"]
    return {"figures": known["figures"], "training": f"{trained_on[:1].upper()}{trained_on[1:]}."}
