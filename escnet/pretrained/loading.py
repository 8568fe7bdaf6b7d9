"""Loading weights into a module, of which every key has to fit."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from escnet.pretrained.files import WeightsError
from escnet.pretrained.reading import wrapper_prefix
from escnet.pretrained.recognition import WeightFormat, recognise

LISTED_KEYS = 8


def load_exactly(
    module: nn.Module,
    state: dict[str, Tensor],
    source: str | Path,
    remedy: str = "",
    prefix: str = "",
    form: WeightFormat | None = None,
) -> None:
    """Copy the weights of a file into a module; every key must fit.

    Arguments:
      module: is changed in place.
      state: what `read_weights` found in the file.
      source: the file, for the error message.
      remedy: what to do when the weights do not fit; ends the message.
      prefix: of the names, in the file, of this module's weights; other names are left alone.
      form: of the file, where it holds more than this module's weights, whose names alone do not tell it.

    Raises:
      WeightsError: keys are missing, unexpected or misshapen, which are named; or the file is that of another system,
        which is named instead.
    """
    own = module.state_dict()
    wrapper = wrapper_prefix(own)
    expected = {prefix + key.removeprefix(wrapper): value for key, value in own.items()}
    given = {key: value for key, value in state.items() if key.startswith(prefix)}
    problems = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "misshapen": [
            f"{key} {tuple(given[key].shape)} for {tuple(value.shape)}"
            for key, value in expected.items()
            if key in given and given[key].shape != value.shape
        ],
    }
    found = [f"{kind} keys: {list_keys(keys)}" for kind, keys in problems.items() if keys]
    if found:
        theirs = recognise(state)
        if theirs and theirs != (form or recognise(expected)):
            raise WeightsError(f"{source}: is {theirs.name}, not the weights of {_name(module)}; {theirs.remedy}")
        ending = f". {remedy}" if remedy else ""
        raise WeightsError(f"{source}: does not fit {_name(module)}: {'; '.join(found)}{ending}")
    module.load_state_dict({wrapper + key.removeprefix(prefix): value for key, value in given.items()})


def list_keys(keys: list[str]) -> str:
    """The first keys for an error message, and how many more there are."""
    rest = len(keys) - LISTED_KEYS
    return ", ".join(keys[:LISTED_KEYS]) + (f" and {rest} more" if rest > 0 else "")


def _name(module: nn.Module) -> str:
    return type(module).__name__
