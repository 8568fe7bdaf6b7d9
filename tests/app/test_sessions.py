"""What is kept for users: as much as fits, the latest, apart from each other."""

from __future__ import annotations

import pytest

from escnet.app.sessions import Recent, Sessions


def test_the_least_recently_used_goes() -> None:
    made: list[str] = []
    recent: Recent[str] = Recent(2)

    def get(key: str) -> str:
        return recent.get(key, lambda: made.append(key) or key.upper())

    assert [get(key) for key in "abacab"] == list("ABACAB")
    assert made == list("abcb")
    assert len(recent) == 2
    assert "c" not in recent
    recent.discard("a")
    recent.discard("a")
    get("a")
    assert made == list("abcba")


def test_what_fails_is_not_kept() -> None:
    recent: Recent[str] = Recent(2)
    with pytest.raises(ZeroDivisionError):
        recent.get("a", lambda: str(1 / 0))
    assert len(recent) == 0
    with pytest.raises(ValueError, match="capacity is 0"):
        Recent(0)


def test_sessions_are_apart_and_bounded() -> None:
    sessions = Sessions(2, encoded=3)
    first, second = sessions.of("one"), sessions.of("two")
    assert sessions.of("one") is first is not second
    assert first.encoded is not second.encoded
    assert first.encoded.capacity == 3
    sessions.of("three")
    assert len(sessions) == 2
    assert sessions.of("one") is first
    assert sessions.of("two") is not second
    sessions.forget("one")
    assert sessions.of("one") is not first
