"""How commands refuse."""

from __future__ import annotations

import argparse

import pytest

from escnet.command_line import at_least_one, one_line, positive_number, refuse, share, zero_or_more


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("no such 'key'"), "no such 'key'"),
        (ValueError("two\n  lines"), "two lines"),
        (MemoryError(), "MemoryError"),
        (KeyError(), "KeyError"),
        (
            ValueError(
                "Caught ImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                "  ...\nescnet.data.images.ImageError: photo.jpg: is damaged: copy it again\n"
            ),
            "photo.jpg: is damaged: copy it again",
        ),
    ],
)
def test_an_error_is_told_in_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(error) == line
    assert refuse("tool.py", error) == 2
    assert refuse("tool.py", line, code=1) == 1
    printed = capsys.readouterr()
    assert printed.err == 2 * f"tool.py: {line}\n" and not printed.out


@pytest.mark.parametrize("text", ["0", "-1", "abc", "1.5", ""])
def test_whole_numbers_of_one_or_more(text: str) -> None:
    assert at_least_one("12") == 12
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no whole number of 1 or more"):
        at_least_one(text)


@pytest.mark.parametrize("text", ["-1", "abc", "1.5", ""])
def test_whole_numbers_of_zero_or_more(text: str) -> None:
    assert zero_or_more("0") == 0
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no whole number of 0 or more"):
        zero_or_more(text)


@pytest.mark.parametrize("text", ["0", "-1", "abc", "nan", "inf"])
def test_positive_numbers(text: str) -> None:
    assert positive_number("1.5") == 1.5
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no positive number"):
        positive_number(text)


@pytest.mark.parametrize("text", ["1", "-0.1", "nan", "inf", "half", ""])
def test_shares(text: str) -> None:
    assert share("0") == 0 and share("0.25") == 0.25
    with pytest.raises(argparse.ArgumentTypeError, match="is no share of 0 or more and below 1"):
        share(text)
