"""What a browser sends of clicks and boxes, checked: prompts of words, and what is pointed at without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from escnet.app.limits import Limits
from escnet.prompt_values import PromptError, shown

if TYPE_CHECKING:
    from torch import nn

# A mask would be a path of the server's files.
_KEYS = ("points", "labels", "box")


def sent_prompts(value: Any, limits: Limits) -> dict[str, dict[str, Any]]:
    """{word: {"points": [[x, y]], "labels": [1], "box": [x1, y1, x2, y2]}} as a browser sends it.

    What is in the lists is checked by `WordPrompts`.

    Raises:
        PromptError: it is something else, or too much.
    """
    if not isinstance(value, Mapping):
        raise PromptError(f"the prompts are {shown(value)}; give words with their points and boxes")
    found = {str(word): sent_prompt(given, limits) for word, given in value.items()}
    count = sum(len(given.get("points", ())) + ("box" in given) for given in found.values())
    if count > limits.prompts:
        raise PromptError(f"there are {count} points and boxes, where this page takes {limits.prompts}; undo some")
    return {word: given for word, given in found.items() if given}


def sent_prompt(value: Any, limits: Limits) -> dict[str, Any]:
    """What is pointed at for one object, in the same form; {} for nothing.

    Raises:
        PromptError: it is something else, or too much.
    """
    if not isinstance(value, Mapping):
        raise PromptError(f"the prompts are {shown(value)}; give points, labels and a box")
    if unknown := [key for key in value if key not in _KEYS]:
        raise PromptError(f"there is no {shown(unknown[0])}; there are {', '.join(_KEYS)}")
    for key, given in value.items():
        if given is not None and (not isinstance(given, list) or len(given) > limits.prompts):
            raise PromptError(f"{key} is {shown(given)}; give a list of at most {limits.prompts}")
    return {key: given for key, given in value.items() if given}


def takes_pointing(model: nn.Module) -> dict[str, bool]:
    """Whether a model takes prompts of words, and whether it draws masks of what is pointed at without a word."""
    from escnet.meta_arch.interfaces import PromptableModel
    from escnet.word_prompts import takes_word_prompts

    return {"words": takes_word_prompts(type(model)), "masks": isinstance(model, PromptableModel)}
