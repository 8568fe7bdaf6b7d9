"""Large pictures in files: what is read, what is written with its place on the earth, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from escnet import Vocabulary
from escnet.data.images import ImageError
from escnet.labelling import large_pictures
from escnet.labelling.band_files import BandWriter, read_columns
from escnet.labelling.engine import LabellingTask, Outcome
from escnet.labelling.large_files import LargePicture
from escnet.labelling.large_pictures import OVERLAY_SIDE, LargeTask, label_large_pictures
from escnet.labelling.pictures import LabellingError, Pictures, find_pictures, output_names
from escnet.labelling.tiles import LabelBand, Tiling, segment_tiles
from escnet.predictor import Segmenter
from escnet.safe_files import DiskFullError

# Tests write pictures that are nowhere on the earth; rasterio is not yet told of a new way to multiply.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
WORDS = Vocabulary(["red", "green", "blue"])
PLACE = {"crs": "EPSG:32633", "transform": from_origin(400000, 5400000, 0.2, 0.2)}
TILING = Tiling(64)


def pixels(height: int = 300, width: int = 270) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([y % 250, x % 250, (x + y) // 3 % 250], axis=-1).astype(np.uint8)


def write_tiff(path: Path, bands: np.ndarray, **options: Any) -> Path:
    bands = bands[..., None] if bands.ndim == 2 else bands
    height, width, count = bands.shape
    shape = {"height": height, "width": width, "count": count, "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as file:
        file.write(np.moveaxis(bands, -1, 0))
    return path


def label(segmenter: Segmenter, path: Path, output: Path, **changes: Any) -> Outcome:
    output.mkdir(exist_ok=True)
    pictures = find_pictures([str(path)])
    label_png, tiling = changes.pop("label_png", False), changes.pop("tiling", TILING)
    origin = {"config": "c.yaml", "weights": None, "options": [], "value_range": None}
    names = output_names(pictures.files)
    task = LabellingTask(pictures, names, output, changes.pop("words", WORDS), origin, **changes)
    return label_large_pictures(segmenter, LargeTask(task, tiling, label_png), lambda _: None)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_files_of_a_picture(colour_segmenter: Callable[..., Segmenter], tmp_path: Path) -> None:
    segmenter, picture = colour_segmenter(), pixels()
    path = write_tiff(tmp_path / "place.tif", picture, BIGTIFF="YES", tiled=True, compress="deflate", **PLACE)
    outcome = label(segmenter, path, tmp_path / "out", save_scores=True, label_png=True)
    assert (len(outcome.seconds), outcome.failures) == (1, [])
    bands = list(segment_tiles(segmenter, picture, WORDS, TILING))
    labels, scores = (np.concatenate([band[i] for band in bands]) for i in (1, 2))
    with rasterio.open(tmp_path / "out/place_labels.tif") as file:
        np.testing.assert_array_equal(file.read(1), labels)
        assert (file.crs, file.transform) == (rasterio.CRS.from_epsg(32633), PLACE["transform"])
        assert (file.profile["tiled"], file.profile["compress"], file.dtypes) == (True, "deflate", ("uint8",))
    with rasterio.open(tmp_path / "out/place_scores.tif") as file:
        np.testing.assert_allclose(file.read(1) * file.scales[0], scores, atol=0.51 / 255)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/place_labels.png")), labels)
    report = json.loads((tmp_path / "out/place.json").read_text())
    assert (report["height"], report["width"]) == picture.shape[:2]
    assert {entry["id"]: entry["pixels"] for entry in report["classes"]} == {
        int(c): int(n) for c, n in zip(*np.unique(labels, return_counts=True), strict=True)
    }
    for entry in report["classes"]:
        assert entry["mean_score"] == pytest.approx(scores[labels == entry["id"]].mean(), abs=1e-5)
    suffixes = (".json", "_labels.png", "_labels.tif", "_overlay.png", "_scores.tif")
    assert left_over(tmp_path / "out") == [f"place{suffix}" for suffix in suffixes]


def test_an_overlay_is_reduced(
    colour_segmenter: Callable[..., Segmenter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_pictures, "OVERLAY_SIDE", 100)
    drawn = []
    monkeypatch.setattr(large_pictures, "overlay", lambda *given: drawn.append(given) or Image.new("RGB", (1, 1)))
    picture = pixels(301, 130)
    label(colour_segmenter(), write_tiff(tmp_path / "a.tif", picture), tmp_path / "out")
    labels = np.concatenate([band.labels for band in segment_tiles(colour_segmenter(), picture, WORDS, TILING)])
    (colours, reduced, _, _) = drawn[0]
    assert colours.shape == (76, 33, 3)  # 301 and 130 pixels in fours
    np.testing.assert_array_equal(reduced[:75, :32], labels[2:300:4, 2:128:4])
    mean = picture[:300, :128].reshape(75, 4, 32, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(colours[:75, :32], mean, atol=0.51)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_that_are_no_tiff(colour_segmenter: Callable[..., Segmenter], tmp_path: Path, suffix: str) -> None:
    Image.fromarray(pixels()).save(tmp_path / f"a{suffix}")
    read = np.asarray(Image.open(tmp_path / f"a{suffix}").convert("RGB"))
    assert not label(colour_segmenter(), tmp_path / f"a{suffix}", tmp_path / "out").failures
    labels = np.concatenate([band.labels for band in segment_tiles(colour_segmenter(), read, WORDS, TILING)])
    with rasterio.open(tmp_path / "out/a_labels.tif") as file:
        assert (file.read(1) != labels).mean() < (0.01 if suffix == ".jpg" else 1e-9)  # two decoders of JPEG


def test_kinds_of_pictures_are_read_as_rgb(tmp_path: Path) -> None:
    picture = pixels(20, 30)
    grey = np.repeat(picture[..., :1], 3, axis=2)
    alpha = np.full((20, 30, 1), 255, np.uint8)
    alpha[:5] = 0
    on_white = np.where(alpha == 0, 255, picture)
    Image.fromarray(grey[..., 0]).convert("P").save(tmp_path / "palette.tif")
    files = {
        write_tiff(tmp_path / "grey.tif", picture[..., 0]): grey,
        write_tiff(
            tmp_path / "rgba.tif", np.concatenate([picture, alpha], 2), photometric="RGB", alpha="YES"
        ): on_white,
        write_tiff(tmp_path / "deep.tif", picture.astype(np.uint16) * 16): picture,
        tmp_path / "palette.tif": grey,
    }
    for path, expected in files.items():
        with LargePicture(path, (0, 4080) if path.stem == "deep" else None) as opened:
            rows = np.concatenate([opened.rows(0, 7), opened.rows(7, 20)])
        np.testing.assert_array_equal(rows, expected, err_msg=path.name)


def test_what_cannot_be_read_so_is_told(tmp_path: Path) -> None:
    picture = pixels(20, 30)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "turned.jpg", exif=turned)
    (tmp_path / "list.vrt").write_text("<VRTDataset/>")
    (tmp_path / "cut.tif").write_bytes(b"II*\0\x08\0\0\0")
    cases = {
        write_tiff(tmp_path / "deep.tif", picture.astype(np.uint16)): "--value-range",
        write_tiff(tmp_path / "many.tif", np.repeat(picture, 2, axis=2), photometric="MINISBLACK"): "has 6 bands",
        tmp_path / "turned.jpg": "EXIF orientation",
        tmp_path / "list.vrt": "is no TIFF, PNG or JPEG",
        tmp_path / "cut.tif": "cannot be opened as GTiff",
        tmp_path / "none.tif": "does not exist",
    }
    for path, message in cases.items():
        with pytest.raises(ImageError, match=message):
            LargePicture(path)


def test_a_damaged_picture_leaves_nothing_and_the_next_is_done(
    colour_segmenter: Callable[..., Segmenter], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = write_tiff(folder / "a.tif", pixels(), compress="deflate")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_tiff(folder / "b.tif", pixels())
    outcome = label(colour_segmenter(), folder, tmp_path / "out")
    assert len(outcome.failures) == len(outcome.seconds) == 1 and outcome.failures[0][0].endswith("a.tif")
    assert left_over(tmp_path / "out") == ["b.json", "b_labels.tif", "b_overlay.png"]


def test_what_is_done_is_skipped_and_what_differs_is_told(
    colour_segmenter: Callable[..., Segmenter], tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "a.tif", pixels(70, 80))
    for expected in (0, 1):
        assert label(colour_segmenter(), path, tmp_path / "out").done_before == expected
    with pytest.raises(LabellingError, match="other tiling"):
        label(colour_segmenter(), path, tmp_path / "out", tiling=Tiling(64, 0.5))
    with pytest.raises(LabellingError, match="other class_names"):
        label(colour_segmenter(), path, tmp_path / "out", words=Vocabulary(["sea", "land"]))
    again = label(colour_segmenter(), path, tmp_path / "out", words=Vocabulary(["sea", "land"]), overwrite=True)
    assert len(again.seconds) == 1
    # What was written is no picture to the next call.
    assert find_pictures([str(tmp_path / "out/*_labels.tif"), str(path)]).files == [path]


def test_a_call_that_is_stopped_leaves_nothing(
    colour_segmenter: Callable[..., Segmenter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = write_tiff(tmp_path / "a.tif", pixels()), large_pictures.BandWriter.write
    for error, kind in ((KeyboardInterrupt, KeyboardInterrupt), (OSError(28, "No space left"), DiskFullError)):

        def stop(self: Any, rows: np.ndarray, error: Any = error) -> None:
            if self._written or len(self._pending):
                raise error
            write(self, rows)

        monkeypatch.setattr(large_pictures.BandWriter, "write", stop)
        with pytest.raises(kind):
            label(colour_segmenter(), path, tmp_path / "out")
        assert left_over(tmp_path / "out") == []


def test_pixels_without_data_and_names_of_classes(colour_segmenter: Callable[..., Segmenter], tmp_path: Path) -> None:
    """As in the label maps of pictures that are not cut."""
    picture = pixels(130, 90)
    picture[:70, 40:] = 0
    picture[:70, :40] |= 1
    path = write_tiff(tmp_path / "field.tif", picture, nodata=0, **PLACE)
    assert not label(colour_segmenter(), path, tmp_path / "out").failures
    empty = (picture == 0).all(axis=2)
    bands = segment_tiles(colour_segmenter(), picture, WORDS, TILING)
    labels = np.concatenate([band.labels for band in bands])
    with rasterio.open(tmp_path / "out/field_labels.tif") as file:
        np.testing.assert_array_equal(file.read(1), np.where(empty, 255, labels))
        assert file.nodata == 255 == json.loads((tmp_path / "out/field.json").read_text())["no_data"]
        assert [file.tags(1)[f"CLASS_{number}"] for number in range(3)] == list(WORDS.class_names)


def test_a_damaged_mask_is_told(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", pixels(300, 200), **PLACE)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(np.random.default_rng(0).integers(0, 2, (300, 200)).astype(bool))
    mask = tmp_path / "a.tif.msk"
    data = bytearray(mask.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    mask.write_bytes(data)
    with LargePicture(path) as picture, pytest.raises(ImageError, match=r"a\.tif: is truncated or damaged in the rows"):
        picture.empty_rows(0, 300)


def test_the_columns_of_a_label_map_are_read_in_their_order(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 256, (300, 600))
    writer = BandWriter(tmp_path / "a.tif", labels.shape, "uint8", {})
    for start in range(0, 300, 77):
        writer.write(labels[start : start + 77])
    writer.close()
    bands = list(read_columns(tmp_path / "a.tif"))
    assert [band.shape for band in bands] == [(300, 256), (300, 256), (300, 88)]
    np.testing.assert_array_equal(np.concatenate(bands, axis=1), labels)
    contents = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(contents[: len(contents) // 2])
    with pytest.raises(ImageError, match=r"a\.tif: "):
        list(read_columns(tmp_path / "a.tif"))


def test_what_is_held_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """No piece of a band is kept: between what is freed, it would keep the system from getting that back."""
    for height in (2 * OVERLAY_SIDE, 4 * OVERLAY_SIDE):
        with LargePicture(write_tiff(tmp_path / "a.tif", np.zeros((height, 6), np.uint8))) as picture:
            task = LargeTask(LabellingTask(Pictures([], []), [], tmp_path, WORDS, {}), TILING)
            outputs = large_pictures._Outputs(tmp_path / "b", picture, task)
            for top in range(0, height, 1000):
                rows = min(1000, height - top)
                shape = (rows, 6)
                band = LabelBand(
                    top, np.ones(shape, int), np.ones(shape, "f4"), np.full((*shape, 3), top // 1000, "u1")
                )
                outputs.write(band)
                kept = [array for array in vars(outputs).values() if isinstance(array, list)]
                assert not kept and len(outputs._pending.labels) < outputs.factor
            outputs.close()
        _, labels, scores, colours = outputs._reduced
        assert labels.shape == (OVERLAY_SIDE, -(-6 // outputs.factor)) and (labels == 1).all() and (scores == 1).all()
        assert colours[-1].max() == (height - 1) // 1000 and colours[0].max() == 0
