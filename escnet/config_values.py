"""Values of a configuration as the user writes them, brought to the kind that each key has."""

from __future__ import annotations

import os
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

# Keys that take a string or a list of strings.
TEMPLATE_KEYS = ("INPUT.TEMPLATES", "TEST.TEMPLATES")
_KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    tuple: 'a list, such as (1, 2) or ("name",)',
    list: 'a list, such as [1, 2] or ["name"]',
}


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file or the key."""


def merge_file(cfg: CfgNode, path: str | os.PathLike) -> None:
    """Set what a .yaml file says in a config, in place; `_BASE_` names a file from which it starts.

    Raises:
        KeyError: for an unknown key.
        ValueError: for a value of the wrong kind, or a file that is not of keys and values.
        OSError, yaml.YAMLError: for a file, or its base, that cannot be read.
    """
    contents = CfgNode.load_yaml_with_base(str(path))
    if not isinstance(contents, Mapping):
        raise ValueError("the file holds no keys")
    version = contents.pop("VERSION", cfg.VERSION)
    if version != cfg.VERSION:
        raise ValueError(f"VERSION is {version!r}, but these configurations have VERSION {cfg.VERSION}")
    for key, value in _leaves(contents, cfg, ""):
        _set(cfg, key, value)


def merge_options(cfg: CfgNode, options: Sequence[Any]) -> None:
    """Set KEY, VALUE, KEY, VALUE ... in a config, in place.

    Raises:
        KeyError: for an unknown key.
        ValueError: for a value of the wrong kind, or a key without value.
    """
    if len(options) % 2:
        raise ValueError(f"an odd length ({len(options)}), so that {options[-1]} has no value")
    for key, value in zip(options[::2], options[1::2], strict=True):
        _set(cfg, key, value)


def convert(key: str, value: Any, default: Any) -> Any:
    """Bring a value to the kind of the key's default: an int serves as a float, and a list as a tuple.

    Args:
        key: with its sections, "MODEL.ESC.ALPHA".
        value: a Python value, or a string that may spell one: "1e-4", "(1, 2)".
        default: a value of the right kind; None where any will do.

    Raises:
        ValueError: it is of another kind.
    """
    if key in TEMPLATE_KEYS:
        return _convert_templates(key, value)
    if isinstance(value, str):
        value = _spelled(value)
    if value is None or default is None or type(value) is type(default):
        return value if not isinstance(value, tuple | list) else _convert_items(value, default)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple | list) and isinstance(value, tuple | list):
        return _convert_items(value, default)
    raise ValueError(f"{key} is {value!r}, but has to be {_KINDS[type(default)]}")


def _convert_items(value: Sequence[Any], default: Sequence[Any] | None) -> Any:
    if default is None:
        return value
    if default and all(isinstance(item, float) for item in default):
        value = [float(item) if type(item) is int else item for item in value]
    return type(default)(value)


def _convert_templates(key: str, value: Any) -> str | tuple[str, ...]:
    # A template such as "{}" spells a dict, which nobody means.
    spelled = _spelled(value) if isinstance(value, str) else value
    if isinstance(spelled, str | tuple | list):
        value = spelled
    if isinstance(value, str):
        return value
    if isinstance(value, tuple | list) and value and all(isinstance(template, str) for template in value):
        return tuple(value)
    raise ValueError(
        f'{key} is {value!r}, but has to be single, imagenet, a template or a list of templates, ["a photo of a {{}}"]'
    )


def _spelled(text: str) -> Any:
    """The Python value that a string spells; the string itself where it spells none."""
    try:
        return literal_eval(text)
    # Names, paths and sentences are no literals.
    except (ValueError, SyntaxError):
        return text


def _leaves(contents: Mapping[str, Any], cfg: CfgNode, prefix: str) -> Iterator[tuple[str, Any]]:
    """(full key, value) of all values below the sections of a file."""
    for name, value in contents.items():
        if isinstance(value, Mapping) and isinstance(cfg.get(name), CfgNode):
            yield from _leaves(value, cfg[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    node = cfg
    *sections, name = str(key).split(".")
    for section in sections:
        node = node.get(section) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or name not in node:
        raise KeyError(f"there is no key {key}")
    if isinstance(node[name], CfgNode):
        raise ValueError(f"{key} is a section of keys, such as {key}.{next(iter(node[name]), 'KEY')}, and has no value")
    node[name] = convert(key, value, node[name])
