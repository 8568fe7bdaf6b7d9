"""Configurations that travel: nothing of a machine in what is written, nothing but plain values in what is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from escnet.config import load_config
from escnet.config_values import TEMPLATE_KEYS, ConfigError
from escnet.pretrained.public import is_public
from escnet.pretrained.shipped import PREFIX, as_shipped, shipped_names

# Where a model was trained and on what it ran: left out, and to be said anew on each machine.
MACHINE_KEYS = (
    "MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.COMPILE", "OUTPUT_DIR", "DATASETS.PROPOSAL_FILES_TRAIN",
    "DATASETS.PROPOSAL_FILES_TEST", "DISTILL.CLIP.SHARDS", "DISTILL.CLIP.EMBEDDINGS", "DISTILL.SAM.SHARDS",
)  # fmt: skip
# The sections whose WEIGHTS name what a model is built upon, and the key of the model that these weights are of.
BASE_SECTIONS = ("MODEL.CLIP", "MODEL.SAM", "MODEL.SAM_CLIP")
# Of a whole configuration, some twenty times over; a file of another's may be of any size.
MOST_BYTES = 1 << 18
MOST_LEVELS = 12
# Absolute, of a home folder, of a parent folder, of a drive of Windows, or an address.
_PATH = re.compile(r"[/~\\]|[A-Za-z]:[/\\]|.*(://|\.\.[/\\])", re.DOTALL)


class _PlainDumper(yaml.SafeDumper):
    """Writes equal lists twice, where YAML's own would write an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def portable_yaml(cfg: CfgNode) -> str:
    """A whole configuration as YAML without what belongs to this machine.

    What ships with the package is named so ("shipped:clip"); weights of CLIP and SAM that are not public become "",
    since a complete model brings them.

    Args:
        cfg: of a model.

    Raises:
        ConfigError: another key holds a path of this machine; the message names it.
    """
    contents = yaml.safe_load(cfg.dump())
    for key in MACHINE_KEYS:
        section, name = _section_of(contents, key)
        section.pop(name, None)
    for key in BASE_SECTIONS:
        section = _section(contents, key)
        weights = as_shipped(section["WEIGHTS"])
        section["WEIGHTS"] = weights if _is_public(key, section.get("NAME", ""), weights) else ""
    _refuse_paths(contents, "the configuration")
    return yaml.dump(contents, Dumper=_PlainDumper, sort_keys=True, allow_unicode=True, width=100)


def read_portable_config(path: Path) -> CfgNode:
    """Read the configuration of a model that someone else may have written.

    It is plain YAML of values, in one file. It cannot name files or folders of this machine, other files to start from,
    a device, a compiler, or weights to fetch but those of public CLIPs and SAMs.

    Raises:
        ConfigError: it holds anything else; the message names the file, the key and the value.
    """
    contents = read_plain_yaml(path)
    if "_BASE_" in contents:
        raise ConfigError(f"{path}: has a _BASE_, {contents['_BASE_']!r:.80}; the configuration of a model is one file")
    for key in MACHINE_KEYS:
        section, name = _section_of(contents, key)
        if name in section:
            raise ConfigError(f"{path}: sets {key}, which is for whoever uses the model to say, not for its publisher")
    _refuse_paths(contents, str(path))
    cfg = load_config(path)
    # Again of the values, since a string may spell a list of strings.
    _refuse_paths(yaml.safe_load(cfg.dump()), str(path), (*MACHINE_KEYS, *(f"{key}.WEIGHTS" for key in BASE_SECTIONS)))
    for key in BASE_SECTIONS:
        node = cfg.MODEL[key.rpartition(".")[2]]
        weights = as_shipped(node.WEIGHTS)
        if weights and not _is_public(key, node.get("NAME", ""), weights):
            raise ConfigError(
                f"{path}: {key}.WEIGHTS is {weights!r}; the configuration of a model may name public weights alone, a "
                "tag of open_clip, official for SAM, or shipped:NAME"
            )
    return cfg


def read_plain_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file of limited size, without aliases, which could stand for any amount of text, and tags.

    Raises:
        ConfigError: it is something else, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ConfigError(f"{path}: has more than {MOST_BYTES} bytes, which no configuration of a model has")
        _refuse_expanding(text, path)
        contents = yaml.safe_load(text)
    except (OSError, UnicodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as plain YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(contents, dict):
        raise ConfigError(f"{path}: holds no keys")
    return contents


def _refuse_expanding(text: bytes, path: Path) -> None:
    """Refuse YAML that stands for much more than it is, or takes long to read."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{path}: has aliases (*name), which the configuration of a model does not need")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_LEVELS:
            raise ConfigError(f"{path}: is nested more than {MOST_LEVELS} levels deep, which no configuration is")


def _is_public(section: str, name: str, weights: str) -> bool:
    """Whether weights of a section can be had by anyone under this name."""
    if weights.startswith(PREFIX):
        return weights.removeprefix(PREFIX) in shipped_names()
    kinds = {"MODEL.CLIP": "clip", "MODEL.SAM": "sam"}
    return section in kinds and is_public(kinds[section], name, weights)


def _refuse_paths(contents: Mapping[str, Any], source: str, but: Sequence[str] = ()) -> None:
    for key, value in _strings(contents, ""):
        if key not in (*TEMPLATE_KEYS, *but) and _PATH.match(value):
            raise ConfigError(
                f"{source}: {key} is {value!r:.200}, a path or an address, which the configuration of a model cannot "
                "hold, as it means nothing on another machine"
            )


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """All strings below a value, each with the full key that it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _strings(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _strings(item, key)


def _section_of(contents: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The section in which a key stands, and its name there; an empty one where there is none."""
    section, _, name = key.rpartition(".")
    return _section(contents, section) if section else contents, name


def _section(contents: dict[str, Any], key: str) -> dict[str, Any]:
    for name in key.split("."):
        contents = contents.get(name, {})
        if not isinstance(contents, dict):
            return {}
    return contents
