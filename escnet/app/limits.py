"""What the page takes from a browser, and how much it keeps for those who use it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of one server.

    Attributes:
        upload_megabytes: the largest file of a picture.
        pixels: a larger picture is shrunk to so many before a model sees it.
        words: classes and background words together.
        word_length: characters of a word with its synonyms.
        prompts: points and boxes in one picture.
        sessions: users, each a tab of a browser, for whom something is kept; the one who has been away longest goes.
        encoded: pictures that are kept encoded for a session, each by one model.
        waiting: questions in the queue; who comes later is told to try again.
    """

    upload_megabytes: int = 20
    pixels: int = 2_000_000
    words: int = 200
    word_length: int = 100
    prompts: int = 50
    sessions: int = 16
    encoded: int = 3
    waiting: int = 32
