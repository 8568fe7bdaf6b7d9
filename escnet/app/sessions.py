"""What the page keeps for each user: pictures that are encoded already, and what was asked and answered last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from escnet.app.pictures import UploadedPicture
    from escnet.encoded_image import EncodedImage
    from escnet.segmentation_result import SegmentationResult
    from escnet.vocabulary import Vocabulary

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The `capacity` values used most recently, by their keys. One thread at a time."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, but must be at least 1")
        self.capacity = capacity
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is not kept; then the one used least recently goes."""
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > self.capacity:
            self._values.popitem(last=False)
        return self._values[key]

    def discard(self, key: Hashable) -> None:
        """Forget one, if it is kept."""
        self._values.pop(key, None)


@dataclass(frozen=True)
class Question:
    """What a user asks.

    Attributes:
        picture: as it was uploaded.
        model: its name.
        encoded: the picture, encoded by the model.
        vocabulary: the words.
        prompts: of the words, in the form of a browser: {word: {"points": ..., "labels": ..., "box": ...}}.
    """

    picture: UploadedPicture
    model: str
    encoded: EncodedImage
    vocabulary: Vocabulary
    prompts: dict[str, Any] = field(default_factory=dict)


class Shown(NamedTuple):
    """What a user sees."""

    question: Question
    result: SegmentationResult


class Session:
    """One tab of a browser.

    Attributes:
        lock: held by the one who answers for this session.
        encoded: pictures by (contents, model).
        shown: what was answered last; None before that.
    """

    def __init__(self, capacity: int) -> None:
        self.lock = threading.Lock()
        self.encoded: Recent[EncodedImage] = Recent(capacity)
        self.shown: Shown | None = None


class Sessions:
    """The sessions used most recently; many threads may use it.

    Args:
        capacity: how many are kept.
        encoded: how many encoded pictures each of them keeps.
    """

    def __init__(self, capacity: int, encoded: int) -> None:
        self._sessions: Recent[Session] = Recent(capacity)
        self._encoded = encoded
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def of(self, name: str) -> Session:
        """The session of this name, a new one if it is not kept."""
        with self._lock:
            return self._sessions.get(name, lambda: Session(self._encoded))

    def forget(self, name: str) -> None:
        """Drop all that is kept for a session, when its tab is closed."""
        with self._lock:
            self._sessions.discard(name)
