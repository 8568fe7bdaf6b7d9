"""Annotations in the format "CVAT for images 1.1": polygons, boxes and masks in XML."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from escnet.data.errors import DatasetError
from escnet.data.preparation.own_annotations.annotated import (
    AnnotatedImage,
    AnnotationSet,
    Region,
    counted,
    refuse_twice,
)
from escnet.data.preparation.own_annotations.shapes import BoxRuns, Polygon, Shape, rectangle

_EXPORT = "export it as 'CVAT for images 1.1'"
# Of an image as a whole, so that nothing of it could be painted.
_NOT_OF_A_PLACE = ("tag", "attribute")


def read_cvat(path: Path) -> AnnotationSet:
    """Read an export of CVAT. Classes stand in the order of its labels; a higher z_order lies on top.

    Raises:
        DatasetError: it cannot be read, is another export, or a shape lacks something or has an unknown label.
    """
    root = read_xml(path)
    if root.tag != "annotations":
        raise DatasetError(f"{path}: begins with <{root.tag}>, not with <annotations>; {_EXPORT}")
    if root.find("track") is not None:
        raise DatasetError(f"{path}: has tracks, which are of a video; {_EXPORT}")
    names = [" ".join((label.findtext("name") or "").split()) for label in _labels(root)]
    refuse_twice(path, "the label", names, "rename it in CVAT, and export again")
    if not names:
        raise DatasetError(f"{path}: lists no labels in <meta>; {_EXPORT}")
    left_out: Counter[str] = Counter()
    images = tuple(_image(path, element, set(names), left_out) for element in root.iter("image"))
    if not images:
        raise DatasetError(f"{path}: has no <image>; {_EXPORT}")
    warnings = [f"{sum(left_out.values())} shapes that cover nothing known are left out: {counted(left_out)}"]
    return AnnotationSet(path, (path,), tuple(names), images, tuple(warnings if left_out else ()))


def read_xml(path: Path) -> Element:
    """The root of an XML file without a document type, whose entities could fill the memory or read other files.

    Raises:
        DatasetError: it has one, is no XML, or cannot be read.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse_declaration(*_: object) -> None:
        raise DatasetError(f"{path}: declares a document type (<!DOCTYPE>), which no export of CVAT does; {_EXPORT}")

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse_declaration
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    try:
        with path.open("rb") as stream:
            parser.ParseFile(stream)
        return builder.close()
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file; check the path") from None
    except (OSError, expat.ExpatError, AssertionError) as error:
        raise DatasetError(f"{path}: cannot be read as XML ({error}); export it again") from None


def _labels(root: Element) -> list[Element]:
    """The labels of the task, project or job; those of a skeleton's points have a parent."""
    meta = root.find("meta")
    found = [] if meta is None else [label for labels in meta.iter("labels") for label in labels.findall("label")]
    return [label for label in found if not label.findtext("parent")]


def _image(path: Path, element: Element, known: set[str], left_out: Counter[str]) -> AnnotatedImage:
    name = element.get("name", "")
    place = f"image '{name}'"
    try:
        size = int(element.attrib["height"]), int(element.attrib["width"])
        if not name:
            raise ValueError("it has no name")
    except (KeyError, ValueError) as error:
        raise DatasetError(f"{path}: {place} lacks something ({error!r}); {_EXPORT}") from None
    regions = []
    for child in element:
        try:
            shape, order = _shape(child), int(child.get("z_order") or 0)
        except (KeyError, ValueError) as error:
            raise DatasetError(
                f"{path}: {place}: a {child.tag} cannot be used ({error!r}); correct it in CVAT, and export again"
            ) from None
        if shape is None:
            left_out.update([] if child.tag in _NOT_OF_A_PLACE else [child.tag])
            continue
        label = " ".join(child.get("label", "").split())
        if label not in known:
            raise DatasetError(
                f"{path}: {place}: a {child.tag} has the label '{label}', which <meta> does not list; {_EXPORT}"
            )
        regions.append(Region(label, shape, order))
    return AnnotatedImage(name, place, size, tuple(regions))


def _shape(element: Element) -> Shape | None:
    """What an element covers; None for a kind that covers nothing.

    Raises:
        KeyError, ValueError: it lacks something, or a value cannot be.
    """
    attributes = element.attrib
    if element.tag == "polygon":
        points = (point.split(",") for point in attributes["points"].split(";"))
        return Polygon((tuple((float(x), float(y)) for x, y in points),))
    if element.tag == "box":
        x1, y1, x2, y2 = (float(attributes[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        return rectangle((x1, y1, x2, y2), float(attributes.get("rotation", 0)), ((x1 + x2) / 2, (y1 + y2) / 2))
    if element.tag == "mask":
        counts = tuple(int(number) for number in attributes["rle"].split(","))
        return BoxRuns(counts, *(int(attributes[name]) for name in ("left", "top", "width", "height")))
    return None
