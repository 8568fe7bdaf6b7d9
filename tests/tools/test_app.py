"""The command of the page: its options, and what is told before anything is served."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from escnet.app.limits import Limits
from escnet.commands.app import main, parse


def test_what_the_page_takes_by_default() -> None:
    options, limits = parse([]), Limits()
    assert (options.host, options.port, options.config_file) == ("127.0.0.1", None, None)
    assert (options.max_upload, options.max_pixels, options.max_words) == (
        limits.upload_megabytes,
        limits.pixels,
        limits.words,
    )


@pytest.mark.parametrize("arguments", [["--weights", "x.pth"], ["MODEL.DEVICE", "cpu"]])
def test_weights_need_a_configuration(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(arguments)
    assert stopped.value.code == 2
    assert "name its --config-file, or --model, too" in capsys.readouterr().err


def test_a_missing_file_is_told_before_the_page_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio")
    missing = tmp_path / "none.yaml"
    assert main(["--config-file", str(missing)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"app.py: error: '{missing}': there is no such file")
    assert error.count("\n") == 1


def test_without_gradio_one_sentence_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main([]) == 2
    assert "pip install 'escnet[app]'" in capsys.readouterr().err
