"""README.md of a published model: what is known of it and what its publisher says, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

# What a publisher can say, and what it is.
KEYS = {
    "title": "a heading",
    "description": "text: what it is and for what",
    "license": "a name of the hub's, such as apache-2.0 or cc-by-sa-4.0",
    "datasets": "names of the hub's, or others",
    "tags": "further tags",
    "language": "of its words, such as en",
    "figures": "scores by name, which may be nested: {'miou': {'a150': 31.8}}",
    "training": "text: what it was trained on, and how",
    "limitations": "text: what it does badly",
    "authors": "text",
    "citation": "BibTeX or text",
}
_SECTIONS = (("training", "Training data"), ("limitations", "Limitations"), ("authors", "Authors"))
_LISTS = ("datasets", "tags", "language")
_LICENCE_OF_A_DELTA = (
    "The weight file holds what differs from these models. The model that is restored from it contains their weights, "
    "so that their licences apply to it beside the one of this file."
)


class CardError(ValueError):
    """What a publisher says of a model cannot be used; the message names the key."""


def check_card(card: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a publisher says, by the keys of `KEYS`, with lists where one name was given.

    Raises:
        CardError: for another key, or a value of another kind.
    """
    card = dict(card or {})
    for key, value in card.items():
        if key not in KEYS:
            raise CardError(f'the card has no "{key}"; it takes {", ".join(f"{name} ({KEYS[name]})" for name in KEYS)}')
        if key in _LISTS:
            card[key] = value = [value] if isinstance(value, str) else list(value)
            fits = all(isinstance(item, str) for item in value)
        else:
            fits = isinstance(value, Mapping if key == "figures" else str)
        if not fits:
            raise CardError(f'"{key}" of the card is {value!r:.200}, but has to be {KEYS[key]}')
    return card


def model_card(manifest: Mapping[str, Any], card: Mapping[str, Any], address: str) -> str:
    """The text of README.md.

    Args:
        manifest: what escnet.json says of the files.
        card: as `check_card` returns it.
        address: by which the model is loaded: "hub:owner/name", or a folder.
    """
    parts = [_front_matter(manifest, card), f"# {card.get('title') or address.rpartition('/')[2]}"]
    parts.append(card.get("description") or f"A model of escnet, open-vocabulary segmentation ({manifest['system']}).")
    parts.append(f"## Use\n\n{_use(address)}")
    if card.get("figures"):
        rows = "\n".join(f"| {name} | {value} |" for name, value in _figures(card["figures"]))
        parts.append(f"## Figures\n\nAs given by the publisher.\n\n| | |\n|---|---|\n{rows}")
    parts += [f"## {heading}\n\n{card[key]}" for key, heading in _SECTIONS if card.get(key)]
    parts.append(f"## Files\n\n{_files(manifest)}")
    if manifest["bases"]:
        parts.append(f"## Made upon\n\n{_bases(manifest['bases'])}")
    if not card.get("license"):
        parts.append("## Licence\n\nThe publisher has stated none.")
    if card.get("citation"):
        parts.append(f"## Citation\n\n```\n{card['citation']}\n```")
    return "\n\n".join(parts) + "\n"


def _front_matter(manifest: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    own = ["open-vocabulary-segmentation", "semantic-segmentation", manifest["system"].lower()]
    fields: dict[str, Any] = {"license": card.get("license"), "language": card.get("language")}
    fields |= {"library_name": "escnet", "pipeline_tag": "image-segmentation"}
    fields |= {"tags": [*own, *(tag for tag in card.get("tags", ()) if tag not in own)]}
    fields |= {"datasets": card.get("datasets")}
    given = {key: value for key, value in fields.items() if value}
    return f"---\n{yaml.safe_dump(given, sort_keys=False, allow_unicode=True)}---"


def _use(address: str) -> str:
    return (
        "```python\nfrom escnet import Segmenter\n\n"
        f"segmenter = Segmenter.from_pretrained({address!r})\n"
        'result = segmenter("photo.jpg", ["cat", "grass", "sky"])\nresult.save_overlay("photo_overlay.png")\n```\n\n'
        f'```bash\npython -m escnet predict --model "{address}" --input photo.jpg --vocabulary "cat, grass, sky" '
        "--output out\n```"
    )


def _files(manifest: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name} | `{sha256}` |" for name, sha256 in manifest["files"].items())
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    return f"| file | SHA-256 |\n|---|---|\n{rows}\n\nWritten by {versions}. Checked when the model is loaded."


def _bases(bases: Sequence[Mapping[str, Any]]) -> str:
    rows = "\n".join(f"| {b['name']} | {b['weights']} | {b['file']} | `{b['file_sha256']}` |" for b in bases)
    return f"| model | weights | file | SHA-256 |\n|---|---|---|---|\n{rows}\n\n{_LICENCE_OF_A_DELTA}"


def _figures(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{prefix}{name}, ")
        else:
            yield f"{prefix}{name}", value
