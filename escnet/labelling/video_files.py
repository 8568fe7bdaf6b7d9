"""Films: their frames one by one, upright and with their times, and films of frames that are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from escnet.data.images import ImageError

if TYPE_CHECKING:
    from types import ModuleType

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv")
# Of what is written: every encoder of the list takes yuv420p, and the first that the library has is used.
_ENCODERS = ("libx264", "libopenh264", "mpeg4")
# Ticks of a second; mpeg4 knows no more than 65535.
_TICKS = 60000


class VideoPicture(NamedTuple):
    """A frame of a film.

    Attributes:
        index: its number among those that could be decoded, from 0.
        time: seconds from the beginning of the film's first frame.
        pixels: (H, W, 3) uint8 RGB, upright.
    """

    index: int
    time: float
    pixels: np.ndarray


class VideoReader:
    """The frames of a film, as its decoder gives them, each upright.

    Args:
        path: of the file.
        every: give each so many-th frame, the first included.

    Attributes:
        damaged: packets that could not be decoded so far, whose frames are missing.
        decoded: frames so far, those that were passed over too.
        frame_rate: frames per second on average as the file says; None where it does not.

    Raises:
        ImageError: the file is missing, is no film, or has no pictures.
    """

    def __init__(self, path: Path, every: int = 1) -> None:
        if every < 1:
            raise ImageError(f"{path}: every {every}th frame is none; give 1 for all frames, 2 for each second one")
        self.path, self.every, self.damaged, self.decoded = path, every, 0, 0
        self._av = _library(path)
        if not path.is_file():
            raise ImageError(f"{path}: does not exist, or is no file; check the path")
        try:
            # A playlist would lead to further files, or to the network.
            self._file = self._av.open(str(path.absolute()), options={"protocol_whitelist": "file"})
        except (self._av.error.FFmpegError, ValueError) as error:
            raise ImageError(f"{path}: cannot be opened as a film ({error}); download or convert it again") from error
        if not self._file.streams.video:
            self._file.close()
            raise ImageError(f"{path}: has no pictures, but {len(self._file.streams)} other streams; give a film")
        self._stream = self._file.streams.video[0]
        self.frame_rate = None if self._stream.average_rate is None else float(self._stream.average_rate)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[VideoPicture]:
        first, before = None, 0.0
        for frame in self._frames():
            index, self.decoded = self.decoded, self.decoded + 1
            # A frame that has no time of its own comes when the one before has been seen.
            step = 1 / self.frame_rate if self.frame_rate and index else 0.0
            seconds = before + step if frame.time is None else frame.time - (first or 0.0)
            if first is None and frame.time is not None:
                first, seconds = frame.time, 0.0
            before = seconds
            if index % self.every == 0:
                pixels = frame.to_ndarray(format="rgb24")
                yield VideoPicture(index, seconds, np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))))

    def _frames(self) -> Iterator:
        """The frames; a packet that cannot be decoded is counted, and the others go on."""
        packets = self._file.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except self._av.error.FFmpegError:
                # What follows in the file cannot be told apart into packets; what the decoder still holds is given.
                self.damaged += 1
                packets, packet = iter(()), None
                yield from self._decoded(None)
            if packet is None:
                return
            yield from self._decoded(packet)

    def _decoded(self, packet: object | None) -> Iterator:
        try:
            yield from self._stream.codec_context.decode(packet) if packet is None else packet.decode()
        except self._av.error.FFmpegError as error:
            if not isinstance(error, self._av.error.EOFError):
                self.damaged += 1


class VideoWriter:
    """A film of pictures that are drawn, H.264 where the library has an encoder for it, else MPEG-4.

    Args:
        path: of the file, .mp4.
        size: (H, W) of the first picture; an odd side gains a row or column at its end, as the format wants, and
            pictures of another size are put on its paper.

    Raises:
        ImageError: when there is no library.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self._av = _library(path)
        self.size = tuple(side + side % 2 for side in size)
        self._file = self._av.open(str(path), "w", format="mp4")
        self.codec = next(name for name in _ENCODERS if name in self._av.codecs_available)
        self._stream = self._file.add_stream(self.codec, rate=25)
        self._stream.height, self._stream.width = self.size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        if self.codec == "mpeg4":
            self._stream.bit_rate = 4 * self.size[0] * self.size[1]
        self._last = -1

    def write(self, pixels: np.ndarray, seconds: float) -> None:
        """Append a picture (H, W, 3) uint8 RGB that is shown from a time on."""
        canvas = np.full((*self.size, 3), 255, np.uint8)
        height, width = (min(a, b) for a, b in zip(pixels.shape, self.size, strict=False))
        canvas[:height, :width] = pixels[:height, :width]
        frame = self._av.VideoFrame.from_ndarray(canvas, format="rgb24")
        # Times have to grow, which those of a damaged film may not.
        self._last = max(round(seconds * _TICKS), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._file.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder holds, and end the file."""
        try:
            self._file.mux(self._stream.encode(None))
        finally:
            self._file.close()


def is_video(path: Path) -> bool:
    """Whether a file is a film by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _library(path: Path) -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ImageError(f"{path}: films need PyAV; pip install 'escnet[video]'") from error
    return av
