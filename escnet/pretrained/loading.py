"""Loading weights into a module, of which every key has to fit."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from escnet.pretrained.files import WeightsError

LISTED_KEYS = 8


def load_exactly(module: nn.Module, state: dict[str, Tensor], path: Path, prefix: str = "") -> None:
    """Copy `state` into `module`, whose keys stand in the file behind `prefix`; every key must fit."""
    expected = {prefix + key: value for key, value in module.state_dict().items()}
    problems = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "misshapen": [
            f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    found = [f"{kind} keys: {_list_keys(keys)}" for kind, keys in problems.items() if keys]
    if found:
        raise WeightsError(f"{path}: does not fit {type(module).__name__}: {'; '.join(found)}")
    module.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()})


def _list_keys(keys: list[str]) -> str:
    rest = len(keys) - LISTED_KEYS
    return ", ".join(keys[:LISTED_KEYS]) + (f" and {rest} more" if rest > 0 else "")
