"""A label map that may be too large for memory, as runs column by column, which are the run lengths of COCO's masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Tools that read COCO hold the length of a run, and the area of a mask, in 32 bits without a sign.
MOST_PIXELS = (1 << 32) - 1


class RunMask(NamedTuple):
    """Where a class is, or a part of it.

    Attributes:
        class_id: of the class.
        runs: int64 lengths of runs, column by column, of 0 and 1 by turns, beginning with 0.
        box: left, top, width and height in pixels.
        area: in pixels.
    """

    class_id: int
    runs: np.ndarray
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True)
class LabelRuns:
    """The runs of equal labels of a label map (H, W), column by column; each ends with its column at the latest.

    What they take grows with the length of the outlines, not with the area.

    Attributes:
        size: (H, W).
        starts: (R,) int64 the first pixel of each run, counted column by column.
        labels: (R,) of each run.
    """

    size: tuple[int, int]
    starts: np.ndarray
    labels: np.ndarray

    @classmethod
    def of_bands(cls, bands: Iterable[np.ndarray], size: tuple[int, int]) -> LabelRuns:
        """The runs of a label map.

        Args:
            bands: (H, w) each, from the left to the right.
            size: (H, W).
        """
        starts, labels, offset = [], [], 0
        for band in bands:
            pixels = band.T.ravel()
            is_first = np.empty(len(pixels), bool)
            np.not_equal(pixels[1:], pixels[:-1], out=is_first[1:])
            is_first[:: size[0]] = True
            firsts = np.flatnonzero(is_first)
            starts.append(firsts + offset)
            labels.append(pixels[firsts])
            offset += len(pixels)
        return cls(size, np.concatenate(starts), np.concatenate(labels))

    def class_masks(self, class_ids: range) -> Iterator[RunMask]:
        """The mask of each of these classes that is present."""
        for class_id in np.unique(self.labels).tolist():
            if class_id in class_ids:
                yield self._mask(class_id, np.flatnonzero(self.labels == class_id))

    def object_masks(self, class_ids: range) -> Iterator[RunMask]:
        """The mask of each connected part of them; pixels that share a corner alone are not connected."""
        parts = self._parts()
        for class_id in np.unique(self.labels).tolist():
            if class_id in class_ids:
                own = np.flatnonzero(self.labels == class_id)
                # Runs of a part stay in their order, and parts come in that of their first runs.
                _, first, part = np.unique(parts[own], return_index=True, return_inverse=True)
                order = np.argsort(first[part], kind="stable")
                ends = np.cumsum(np.bincount(part)[np.argsort(first)])
                for chosen in np.split(own[order], ends[:-1]):
                    yield self._mask(class_id, chosen)

    def _parts(self) -> np.ndarray:
        """(R,) the number of the connected part of each run."""
        height, width = self.size
        # Between these places, neither a column nor the next has another run.
        inner = self.starts[self.starts < (width - 1) * height]
        places = np.union1d(inner, self.starts[self.starts >= height] - height)
        here = np.searchsorted(self.starts, places, side="right") - 1
        beside = np.searchsorted(self.starts, places + height, side="right") - 1
        is_same = self.labels[here] == self.labels[beside]
        pairs = here[is_same], beside[is_same]
        graph = coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(len(self.starts),) * 2)
        return connected_components(graph, directed=False)[1]

    def _mask(self, class_id: int, chosen: np.ndarray) -> RunMask:
        """The mask of the runs of these numbers, in their order."""
        height, pixels = self.size[0], self.size[0] * self.size[1]
        firsts = self.starts[chosen]
        ends = np.where(chosen + 1 < len(self.starts), self.starts[(chosen + 1) % len(self.starts)], pixels)
        lengths = ends - firsts
        columns, tops = np.divmod(firsts, height)
        left, top = int(columns[0]), int(tops.min())
        box = (left, top, int(columns[-1]) + 1 - left, int((tops + lengths).max()) - top)
        # A run at the end of a column goes on in the next.
        goes_on = firsts[1:] == ends[:-1]
        edges = np.stack([firsts[np.r_[True, ~goes_on]], ends[np.r_[~goes_on, True]]], axis=1).ravel()
        if edges[-1] != pixels:
            edges = np.append(edges, pixels)
        return RunMask(class_id, np.diff(edges, prepend=0), box, int(lengths.sum()))
