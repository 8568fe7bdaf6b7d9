"""The table of published weight files, and how they are found on this machine or downloaded."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import open_clip
import torch
from huggingface_hub import constants as hub_constants
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import download_pretrained

from escnet.pretrained.files import WeightsError, first_line

REACHABLE_SECONDS = 10


@dataclass(frozen=True)
class PublicWeights:
    """A published weight file."""

    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name under which the file is published, and under which it is looked for."""
        return Path(urlparse(self.url).path).name


def _sam(file_name: str, sha256: str) -> PublicWeights:
    return PublicWeights(f"https://dl.fbaipublicfiles.com/segment_anything/{file_name}", sha256)


def _openai(name: str) -> PublicWeights:
    url = open_clip.get_pretrained_url(name, "openai")
    return PublicWeights(url, sha256=url.split("/")[-2])


# The six digits in the names of SAM's files begin their MD5, not their SHA-256.
PUBLIC_WEIGHTS: dict[str, PublicWeights] = {
    "vit_b": _sam("sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "vit_l": _sam("sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "vit_h": _sam("sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    **{
        name: _openai(name)
        for name in ("ViT-B-32-quickgelu", "ViT-B-16-quickgelu", "ViT-L-14-quickgelu", "ViT-L-14-336-quickgelu")
    },
}
"""SAM's by its size, OpenAI's CLIP by the name of the model."""


def weights_directory() -> Path:
    """Where public weight files are looked for and downloaded to: $ESCNET_WEIGHTS, else ~/.cache/escnet."""
    return Path(os.environ.get("ESCNET_WEIGHTS") or "~/.cache/escnet").expanduser()


def where_to_get(public: PublicWeights) -> str:
    """What to do by hand when a file is missing or damaged."""
    return f"Fetch {public.url}, and pass its path or put it into {weights_directory()} as {public.file_name}."


def is_public(kind: str, name: str, weights: str) -> bool:
    """Whether weights are among those that anyone can have under their name.

    Arguments:
      kind: "clip", of whose models open_clip lists the tags, or "sam".
      name: of the model.
      weights: a tag of open_clip, or "official".
    """
    if kind == "clip":
        return bool(open_clip.get_pretrained_cfg(name.replace("/", "-"), weights))
    return weights == "official" and name in PUBLIC_WEIGHTS


def fetch(public: PublicWeights) -> Path:
    """The local file of published weights, downloaded and checked if it is not in `weights_directory()`.

    Raises:
      WeightsError: if it cannot be downloaded.
    """
    path = weights_directory() / public.file_name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written to a temporary name, checked, then renamed.
        torch.hub.download_url_to_file(public.url, str(path), hash_prefix=public.sha256)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: there is no such file, and it could not be downloaded ({first_line(error)}). "
            f"{where_to_get(public)}"
        ) from None
    return path


def fetch_clip(name: str, tag: str) -> Path:
    """The local file of one of open_clip's pretrained tags, downloaded if need be.

    Looked for in `weights_directory()` and in the caches of open_clip and of the Hugging Face hub.

    Raises:
      WeightsError: if it cannot be downloaded.
    """
    pretrained = open_clip.get_pretrained_cfg(name, tag)
    url, repository = pretrained.get("url", ""), pretrained.get("hf_hub", "")
    local = weights_directory() / Path(urlparse(url).path).name
    if url and local.is_file():
        return local
    if repository and (cached := _cached_from_hub(repository)):
        return cached

    page = f"{hub_constants.ENDPOINT}/{repository.rstrip('/')}"
    reasons = []
    for source, from_hub in ((url, False), (repository, True)):
        if not source:
            continue
        try:
            if from_hub:
                require_reachable(hub_constants.ENDPOINT)
            return Path(download_pretrained(pretrained, prefer_hf_hub=from_hub))
        except (OSError, RuntimeError) as error:
            reasons.append(f"{page if from_hub else url} ({first_line(error)})")
    remedy = f"Fetch {url}, and pass its path or put it into {local.parent} as {local.name}."
    if not url:
        remedy = f"Fetch {HF_SAFE_WEIGHTS_NAME} or {HF_WEIGHTS_NAME} from {page}, and pass its path as the weights."
    raise WeightsError(
        f'the weights "{tag}" of {name} are not on this machine, and could not be downloaded from '
        f"{' nor from '.join(reasons)}. {remedy}"
    )


def _cached_from_hub(repository: str) -> Path | None:
    """The file of open_clip's "owner/name/file" or "owner/name/" in the cache of the Hugging Face hub."""
    repo_id, file_name = os.path.split(repository)
    for name in (file_name,) if file_name else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
        if isinstance(cached := try_to_load_from_cache(repo_id, name), str):
            return Path(cached)
    return None


def require_reachable(url: str) -> None:
    """See that a server answers, be it with a refusal.

    Raises:
      OSError: it does not.
    """
    # The hub's own client tries again for most of a minute before it gives up on a machine without internet.
    try:
        urllib.request.urlopen(url, timeout=REACHABLE_SECONDS).close()
    except urllib.error.HTTPError:
        return  # an answer, if not a friendly one
