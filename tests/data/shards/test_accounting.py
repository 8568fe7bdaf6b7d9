"""Broken samples are counted, named once, and too many of them stop a run."""

from __future__ import annotations

import logging

import pytest

from escnet.data.shards import accounting
from escnet.data.shards.accounting import BrokenSample, SampleCount, TooManyBrokenError

BAD = BrokenSample("a.tar", "x", "is truncated")


def test_a_few_among_the_first_are_allowed_and_a_share_is_not() -> None:
    count = SampleCount(limit=0.1, least=100)
    count.add(10, [BAD])
    count.add(10, [BAD] * 9)
    count.add(79, [])
    with pytest.raises(TooManyBrokenError, match=r"11 of 100 samples.*11\.00%.*10\.00%.*a\.tar, x: is truncated"):
        count.add(1, [BAD])
    assert isinstance(TooManyBrokenError(), ValueError)


def test_a_whole_shard_that_is_lost_at_the_beginning_is_no_large_share_of_all() -> None:
    count = SampleCount(limit=0.1, samples=1000, least=0)
    count.add(100, [BAD] * 100)
    with pytest.raises(TooManyBrokenError, match=r"101 of 110 samples.*10\.10% of 1000"):
        count.add(10, [BAD])


def test_just_the_limit_is_allowed() -> None:
    count = SampleCount(limit=0.1, least=0)
    count.add(10, [BAD])
    assert (count.seen, count.broken) == (10, 1)


def test_each_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    count = SampleCount(limit=1)
    with caplog.at_level(logging.WARNING):
        count.add(4, [BAD, BAD._replace(key="y")])
        count.add(4, [BAD])
        resumed = SampleCount(limit=1)
        resumed.load_state_dict(count.state_dict())
        resumed.add(4, [BAD])
    assert [record.getMessage() for record in caplog.records] == [
        "skipped a.tar, x: is truncated",
        "skipped a.tar, y: is truncated",
    ]
    assert (resumed.seen, resumed.broken) == (12, 4)


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(accounting, "_NAMED", 3)
    count = SampleCount(limit=1)
    with caplog.at_level(logging.WARNING):
        count.add(9, [BAD._replace(key=str(number)) for number in range(9)])
    assert count.broken == 9 and len(count.state_dict()["named"]) == 3
    assert caplog.records[-1].getMessage() == "3 broken samples were named; those that follow are only counted"


@pytest.mark.parametrize("settings", [{"limit": 1.5}, {"limit": -0.1}, {"least": -1}, {"samples": -1}])
def test_impossible_limits_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"broken samples|negative"):
        SampleCount(**settings)
