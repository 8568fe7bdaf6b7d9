"""Films: each frame with its time, upright, in the same colours; damage costs no more than what it has hit."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from escnet import Vocabulary
from escnet.data.images import ImageError
from escnet.drawing.palette import palette
from escnet.labelling.engine import LabellingTask, Outcome
from escnet.labelling.pictures import LabellingError, Pictures, find_pictures
from escnet.labelling.video import VideoTask, draw_frame, label_videos, segment_video
from escnet.labelling.video_files import VideoReader, VideoWriter
from escnet.predictor import Segmenter
from escnet.segmentation_result import SegmentationResult

WORDS = Vocabulary(["red", "green", "blue", "dark"])
# Of frames that come as they please.
TIMES = (0.0, 0.04, 0.2, 0.23, 0.9, 1.0)
SIZE = (48, 64)


def frame(index: int) -> np.ndarray:
    """A bright square, further to the right in each frame, that tells the corners apart."""
    pixels = np.full((*SIZE, 3), 40, np.uint8)
    pixels[4:16, 4 + 8 * index : 16 + 8 * index] = (220, 60, 60)
    pixels[36:, :20] = (60, 60, 220)
    return pixels


def write_film(path: Path, times: tuple[float, ...] = TIMES, codec: str = "libx264", begin: float = 0.0) -> Path:
    """A film whose every frame stands alone."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options={"g": "1", "crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 1, 0
        for index, time in enumerate(times):
            picture = av.VideoFrame.from_ndarray(frame(index), format="rgb24")
            picture.pts, picture.time_base = round(1000 * (begin + time)), Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "clip.mp4")


def label(segmenter: Segmenter, path: Path, output: Path, every: int = 1, **changes: Any) -> Outcome:
    output.mkdir(exist_ok=True)
    origin = {"config": "c.yaml", "weights": None, "options": [], "value_range": None}
    files = Pictures([path], [])
    task = LabellingTask(files, [path.stem], output, changes.pop("words", WORDS), origin, **changes)
    return label_videos(segmenter, VideoTask(task, every), lambda _: None)


def test_frames_come_with_their_times(film: Path) -> None:
    with VideoReader(film) as reader:
        frames = list(reader)
    assert [picture.index for picture in frames] == list(range(6))
    assert [picture.time for picture in frames] == pytest.approx(TIMES, abs=1e-3)
    for index, picture in enumerate(frames):
        assert np.abs(picture.pixels.astype(int) - frame(index)).mean() < 12


def test_times_begin_with_the_first_frame(tmp_path: Path) -> None:
    with VideoReader(write_film(tmp_path / "late.mkv", begin=7.0)) as reader:
        assert [picture.time for picture in reader] == pytest.approx(TIMES, abs=2e-3)


def test_a_turned_film_is_upright(film: Path) -> None:
    contents = bytearray(film.read_bytes())
    # The matrix of the track's header: a quarter turn clockwise, as telephones write it that are held upright.
    start = contents.index(b"tkhd") + 4 + 40
    quarter = [0, 1, 0, -1, 0, 0, SIZE[0], 0, 1 << 14]
    scale = [1 << 16] * 9
    scale[8] = 1 << 16
    contents[start : start + 36] = b"".join(
        (value * unit).to_bytes(4, "big", signed=True) for value, unit in zip(quarter, scale, strict=True)
    )
    film.write_bytes(contents)
    with VideoReader(film) as reader:
        pixels = next(iter(reader)).pixels
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    turned = np.rot90(frame(0), -1)
    assert np.abs(pixels.astype(int) - turned).mean() < 12


def test_segmented_frames_are_those_of_single_calls(colour_segmenter: Callable[..., Segmenter], film: Path) -> None:
    with VideoReader(film) as reader:
        pictures = list(reader)
    single = colour_segmenter()
    for batch_size in (1, 4):
        segmenter = colour_segmenter()
        frames = list(segment_video(segmenter, film, WORDS, batch_size=batch_size))
        assert max(segmenter.model.passes) == batch_size
        assert [(f.index, f.time) for f in frames] == [(p.index, p.time) for p in pictures]
        for segmented, picture in zip(frames, pictures, strict=True):
            np.testing.assert_array_equal(segmented.result.labels, single(picture.pixels, WORDS).labels)


def test_each_second_frame(colour_segmenter: Callable[..., Segmenter], film: Path) -> None:
    frames = list(segment_video(colour_segmenter(), film, WORDS, every=2))
    assert [f.index for f in frames] == [0, 2, 4]
    assert [f.time for f in frames] == pytest.approx(TIMES[::2], abs=1e-3)


def test_a_damaged_packet_costs_its_own_frame(colour_segmenter: Callable[..., Segmenter], film: Path) -> None:
    with av.open(str(film)) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][2]
        position, size = packet.pos, packet.size
    contents = bytearray(film.read_bytes())
    contents[position : position + size] = b"\xff" * size
    film.write_bytes(contents)
    with VideoReader(film) as reader:
        frames = list(segment_video(colour_segmenter(), reader, WORDS))
        assert reader.damaged == 1
    assert [f.time for f in frames] == pytest.approx([t for i, t in enumerate(TIMES) if i != 2], abs=1e-3)


def test_a_class_has_one_colour_in_all_frames() -> None:
    """The legend and the tint of a class do not depend on what else a frame shows."""
    black = np.zeros((120, 160, 3), np.uint8)
    drawn = []
    for order in ([0, 1], [3, 1], [1, 2]):
        labels = np.zeros((120, 160), np.int32)
        labels[:, :80], labels[:, 80:] = order
        result = SegmentationResult(labels, np.ones((120, 160), np.float32), black, WORDS)
        picture = np.asarray(draw_frame(result, alpha=1.0))
        assert picture[60, 20].tolist() == palette(4)[order[0]].tolist()
        assert picture[60, 140].tolist() == palette(4)[order[1]].tolist()
        drawn.append(picture)
    # The legend beside: all classes, in their order.
    np.testing.assert_array_equal(drawn[0][:, 160:], drawn[1][:, 160:])
    np.testing.assert_array_equal(drawn[0][:, 160:], drawn[2][:, 160:])
    seen = [tuple(colour) for row in drawn[0][:, 160:] for colour in row.tolist()]
    firsts = [seen.index(tuple(colour)) // (drawn[0].shape[1] - 160) for colour in palette(4).tolist()]
    assert firsts == sorted(firsts)


def test_all_files_of_a_film(colour_segmenter: Callable[..., Segmenter], film: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert label(colour_segmenter(), film, output, batch_size=4).failures == []
    assert sorted(p.name for p in output.iterdir()) == [
        "clip.json", "clip_labels", "clip_legend.png", "clip_overlay.mp4",
    ]  # fmt: skip
    report = json.loads((output / "clip.json").read_text())
    assert (report["frames_decoded"], report["packets_damaged"], report["height"]) == (6, 0, SIZE[0])
    with VideoReader(output / "clip_overlay.mp4") as reader:
        written = list(reader)
    assert [picture.time for picture in written] == pytest.approx(TIMES, abs=1e-3)
    frames = list(segment_video(colour_segmenter(), film, WORDS))
    total = np.zeros(4)
    for segmented, entry, picture in zip(frames, report["frames"], written, strict=True):
        stored = np.asarray(Image.open(output / f"clip_labels/{entry['index']:06d}.png"))
        np.testing.assert_array_equal(stored, segmented.result.labels)
        assert entry["time"] == pytest.approx(segmented.time, abs=1e-6)
        shares = {WORDS.class_names[c]: (stored == c).mean() for c in np.unique(stored)}
        assert entry["shares"] == pytest.approx(shares, abs=1e-6)
        total += np.bincount(stored.ravel(), minlength=4)
        expected = np.asarray(draw_frame(segmented.result))
        height, width = expected.shape[:2]
        assert np.abs(picture.pixels[:height, :width].astype(int) - expected).mean() < 12
    assert {entry["id"]: entry["pixels"] for entry in report["classes"]} == {
        c: n for c, n in enumerate(total.tolist()) if n
    }


def test_what_is_done_is_skipped_and_what_differs_is_told(
    colour_segmenter: Callable[..., Segmenter], film: Path, tmp_path: Path
) -> None:
    for expected in (0, 1):
        assert label(colour_segmenter(), film, tmp_path / "out").done_before == expected
    with pytest.raises(LabellingError, match="other every"):
        label(colour_segmenter(), film, tmp_path / "out", every=2)
    assert label(colour_segmenter(), film, tmp_path / "out", every=2, overwrite=True).seconds
    assert len(list((tmp_path / "out/clip_labels").iterdir())) == 3


def test_what_was_written_is_no_input(colour_segmenter: Callable[..., Segmenter], film: Path, tmp_path: Path) -> None:
    label(colour_segmenter(), film, tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    assert find_pictures([str(tmp_path), str(tmp_path / "*.mp4")], recursive=True).files == [
        tmp_path / "photo.png",
        film,
    ]


def test_a_call_that_is_stopped_leaves_nothing(
    colour_segmenter: Callable[..., Segmenter], film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        label(colour_segmenter(), film, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_no_film_is_told(colour_segmenter: Callable[..., Segmenter], film: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film at all")
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[:200])
    for name, message in (("text", "cannot be opened"), ("cut", "cannot be opened"), ("none", "does not exist")):
        with pytest.raises(ImageError, match=message):
            list(segment_video(colour_segmenter(), tmp_path / f"{name}.mp4", WORDS))
    outcome = label(colour_segmenter(), tmp_path / "text.mp4", tmp_path / "out")
    assert len(outcome.failures) == 1 and list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("size", [(31, 45), (2, 2)])
def test_odd_sides_are_written(tmp_path: Path, size: tuple[int, int]) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", size)
    for time in (0.0, 0.5, 0.5):
        writer.write(np.full((*size, 3), 99, np.uint8), time)
    writer.close()
    with VideoReader(tmp_path / "a.mp4") as reader:
        frames = list(reader)
    assert len(frames) == 3
    assert frames[0].pixels.shape == (*(side + side % 2 for side in size), 3)
