"""Clicks and boxes of a browser: only those, not too many, and never a path."""

from __future__ import annotations

from typing import Any

import pytest

from escnet.app.limits import Limits
from escnet.app.pointing import sent_prompt, sent_prompts
from escnet.prompt_values import PromptError

LIMITS = Limits(prompts=3)


def test_what_is_sent_is_kept_without_what_is_empty() -> None:
    sent = {"cat": {"points": [[1, 2.5]], "labels": [1], "box": None}, "dog": {"points": [], "labels": [], "box": None}}
    assert sent_prompts(sent, LIMITS) == {"cat": {"points": [[1, 2.5]], "labels": [1]}}
    assert sent_prompts({}, LIMITS) == {}
    assert sent_prompt({"box": [1, 2, 3]}, LIMITS) == {"box": [1, 2, 3]}


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (None, "the prompts are None"),
        ({"cat": "dog"}, "the prompts are 'dog'; give points, labels and a box"),
        ({"cat": {"mask": "/etc/passwd"}}, "there is no 'mask'; there are points, labels, box"),
        ({"cat": {"points": "12"}}, "points is '12'; give a list of at most 3"),
        ({"cat": {"points": [[1, 1]] * 4}}, "points is .*at most 3"),
        ({"cat": {"points": [[1, 1]] * 2}, "dog": {"points": [[1, 1]], "box": [1, 2]}}, "there are 4 points and boxes"),
    ],
)
def test_what_is_refused(sent: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        sent_prompts(sent, LIMITS)
