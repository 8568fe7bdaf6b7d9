"""How commands refuse."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import pytest

from escnet.command_line import (
    SECTIONS,
    SINGLE_KEYS,
    CommandParser,
    at_least_one,
    one_line,
    positive_number,
    program_name,
    refuse,
    run_program,
    share,
    zero_or_more,
)


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


def _parser() -> CommandParser:
    parser = CommandParser(prog="tool.py")
    parser.add_argument("--benchmarks", nargs="+")
    parser.add_argument("--sizes", nargs="*", type=int)
    parser.add_argument("--name")
    parser.add_argument("--restart", action="store_true")
    parser.add_config_keys()
    return parser


@pytest.mark.parametrize(
    ("before", "keys"),
    [
        ("--benchmarks a150 folder:/data/MODEL.X", "MODEL.ESC.KEEP 0 TEST.TEMPLATES single"),
        ("--benchmarks a150 --sizes 1 2", "SEED 3"),
        ("--sizes 1 2 --benchmarks a150 folder:/data/MODEL.X --restart", "OUTPUT_DIR --x SEED -1"),
        ("--restart", "LABELLED.IMAGES 3"),
        ("--benchmarks a150 --name=x", "LABELLED.IMAGES 3"),
        ("--benchmarks a150 --sizes 1 -1", "LABELLED.IMAGES 3"),
        ("", "DISTILL.CLIP.SHARDS x.tar"),
        # A key that is none, a mistake that the configuration tells.
        ("--name x", "model.x 1"),
    ],
)
def test_configuration_keys_end_a_list_of_values(before: str, keys: str) -> None:
    options = _parser().parse_args([*before.split(), *keys.split()])
    assert options.opts == keys.split()
    if "--benchmarks" in before:
        assert options.benchmarks == ["a150", "folder:/data/MODEL.X"][: len(options.benchmarks)]
    if "--sizes 1" in before:
        assert options.sizes in ([1, 2], [1, -1])


def test_a_value_may_look_like_a_key() -> None:
    options = _parser().parse_args(["--name", "SEED", "--benchmarks", "./TEST.PNG", "--restart", "TEST.X", "1"])
    assert (options.name, options.benchmarks, options.opts) == ("SEED", ["./TEST.PNG"], ["TEST.X", "1"])


@pytest.mark.parametrize("late", [["--restart"], ["--name=x"], ["--help"]])
def test_options_after_keys_are_refused(late: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        _parser().parse_args(["--benchmarks", "a150", "SEED", "1", *late])
    assert stopped.value.code == 2
    assert f"{late[0]} stands after SEED; configuration keys and their values are" in capsys.readouterr().err


def test_keys_are_told_by_the_sections_of_a_configuration() -> None:
    from detectron2.config import CfgNode, get_cfg

    from escnet.config import add_escnet_config

    cfg = get_cfg()
    add_escnet_config(cfg)
    assert set(SECTIONS) == {key for key, value in cfg.items() if isinstance(value, CfgNode)}
    assert set(SINGLE_KEYS) == {key for key, value in cfg.items() if not isinstance(value, CfgNode)}


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("/env/bin/escnet", "escnet predict"),
        ("/env/lib/site-packages/escnet/__main__.py", "escnet predict"),
        ("tools/predict.py", "predict.py"),
        ("/env/lib/site-packages/pytest/__main__.py", "predict.py"),
    ],
)
def test_a_command_is_called_what_was_typed(called: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [called, "--help"])
    assert program_name("predict") == name


def test_a_program_says_which_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def miss(name: str) -> int:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("sys.argv", ["tools/export.py"])
    assert run_program(lambda: miss("onnx.helper")) == 2
    assert capsys.readouterr().err == "export.py: onnx is not installed: pip install 'escnet[export]'\n"
    with pytest.raises(ModuleNotFoundError, match=r"escnet\.gone"):
        run_program(lambda: miss("escnet.gone"))
    assert (run_program(lambda: None), run_program(lambda: 3)) == (0, 3)


def _say(words: str, flush: bool) -> int:
    try:
        print(words, flush=flush)
    except OSError as error:
        return refuse("app", error)
    return 0


@pytest.mark.parametrize(
    "program",
    [
        lambda: print("words", flush=True),
        lambda: print("words"),
        lambda: print("words" * 100_000),
        lambda: _say("words", flush=True),
        lambda: _say("words" * 100_000, flush=False),
    ],
)
def test_an_output_that_nobody_reads_ends_a_program_in_silence(
    program: Callable[[], int | None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert run_program(program) == 141
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_a_pipe_that_is_not_the_output_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise BrokenPipeError("of a worker")

    with pytest.raises(BrokenPipeError):
        run_program(fail)
    assert refuse("app", BrokenPipeError("of a worker")) == 2
    assert capsys.readouterr().err == "app: of a worker\n"
