"""Annotations as pictures: maps of ids, maps of colours, or a black and white mask for each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from escnet.data.errors import DatasetError, listed
from escnet.data.images import ImageError, bits_of, image_mode, image_size, read_image, read_labels
from escnet.data.preparation.own_annotations.annotated import (
    UNLABELLED,
    AnnotatedImage,
    AnnotationSet,
    Region,
    refuse_twice,
)
from escnet.data.preparation.own_annotations.palette import Palette, read_palette
from escnet.data.preparation.own_annotations.shapes import MaskFile

# Of formats without loss alone: of a JPEG, the values of a mask are no more than nearly its own.
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
_BLACK = 0
_UNKNOWN = -2


@dataclass(frozen=True)
class IdPicture:
    """A map of ids. Where they are not named, 0 and the highest of 8 or 16 bits mean not labelled."""

    path: Path
    ids: tuple[int, ...]

    def labels(self) -> np.ndarray:
        """As `LabelPicture.labels`."""
        raw = read_labels(self.path)
        if int(raw.min()) < 0 or int(raw.max()) >= 1 << 16:
            raise ImageError(f"{self.path}: has ids {raw.min()}..{raw.max()}; a label map holds ids 0..65535")
        table = np.full(1 << 16, _UNKNOWN, dtype=np.int32)
        table[[0, 2 ** bits_of(raw) - 1]] = UNLABELLED
        table[list(self.ids)] = np.arange(len(self.ids))
        labels = table[raw]
        if labels.min() == _UNKNOWN:
            unknown = np.unique(raw[labels == _UNKNOWN]).tolist()
            raise ImageError(
                f"{self.path}: has the ids {listed(unknown, 8)}, which --palette does not name; name them there"
            )
        return labels


@dataclass(frozen=True)
class ColourPicture:
    """A map of colours, as 65536 R + 256 G + B. Black means not labelled where it is not named."""

    path: Path
    colours: tuple[int, ...]

    def labels(self) -> np.ndarray:
        """As `LabelPicture.labels`."""
        if image_mode(self.path) == "RGBA":
            raise ImageError(f"{self.path}: has transparent pixels (mode RGBA); save it as RGB")
        codes = read_image(self.path).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
        found, places = np.unique(codes, return_inverse=True)
        table = {_BLACK: UNLABELLED} | {colour: place for place, colour in enumerate(self.colours)}
        if unknown := [code for code in found.tolist() if code not in table]:
            shown = listed((f"({code >> 16}, {code >> 8 & 255}, {code & 255})" for code in unknown), 5)
            raise ImageError(
                f"{self.path}: has {len(unknown)} colours that --palette does not name: {shown}; name them there, and "
                f"take masks with hard edges"
            )
        return np.array([table[code] for code in found.tolist()], dtype=np.int32)[places].reshape(codes.shape)


def read_masks(path: Path, palette: Path | None, is_photograph: Callable[[str], bool]) -> AnnotationSet:
    """Read a folder of masks.

    With a palette, a picture for each photograph, of its name: of ids, or of colours. Without one, black and white
    masks, CLASS/PHOTOGRAPH.png or PHOTOGRAPH/CLASS.png; the classes stand in the order of the alphabet, and a later
    one lies on top.

    Args:
        path: of the folder.
        palette: file with the names of ids or colours.
        is_photograph: whether there is a photograph of a name without suffix.

    Raises:
        DatasetError: no masks are there, or the palette is none.
        ImageError: a mask cannot be read.
    """
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in MASK_SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise DatasetError(f"{path}: has no masks ({', '.join(MASK_SUFFIXES)}); name their folder as --annotations")
    if palette is None:
        return _black_and_white(path, files, is_photograph)
    named = read_palette(palette)
    images = tuple(_mapped(path, file, named) for file in files)
    return AnnotationSet(path, (palette, *files), named.names, images)


def _mapped(path: Path, file: Path, palette: Palette) -> AnnotatedImage:
    name = file.relative_to(path).with_suffix("").as_posix()
    picture = (ColourPicture if palette.is_of_colours else IdPicture)(file, palette.values)
    return AnnotatedImage(name, file.name, image_size(file), picture=picture, suffixed=False)


def _black_and_white(path: Path, files: Sequence[Path], is_photograph: Callable[[str], bool]) -> AnnotationSet:
    places = [PurePosixPath(file.relative_to(path).with_suffix("").as_posix()) for file in files]
    if loose := [file for file, place in zip(files, places, strict=True) if len(place.parts) < 2]:
        raise DatasetError(
            f"{loose[0]}: is in no folder of a class; put black and white masks into CLASS/PHOTOGRAPH.png or "
            f"PHOTOGRAPH/CLASS.png, or name ids or colours with --palette"
        )
    by_class = [(PurePosixPath(*place.parts[1:]).as_posix(), place.parts[0]) for place in places]
    by_photograph = [(place.parent.as_posix(), place.name) for place in places]
    # Whichever way round names more photographs.
    layout = max((by_class, by_photograph), key=lambda pairs: sum(is_photograph(name) for name, _ in pairs))
    names = sorted({folder for _, folder in layout})
    words = {folder: " ".join(folder.replace("_", " ").split()) for folder in names}
    refuse_twice(path, "the class", list(words.values()), "merge the two, or rename one")
    regions: dict[str, list[Region]] = {}
    for file, (name, folder) in sorted(zip(files, layout, strict=True), key=lambda pair: pair[1][1]):
        regions.setdefault(name, []).append(Region(words[folder], MaskFile(file)))
    images = tuple(
        AnnotatedImage(name, f"masks of '{name}'", image_size(masks[0].shape.path), tuple(masks), suffixed=False)
        for name, masks in sorted(regions.items())
    )
    return AnnotationSet(path, tuple(files), tuple(words.values()), images)
