"""Dates and times as a user writes them."""

from __future__ import annotations

import datetime


def moment_of(text: str) -> datetime.datetime:
    """An ISO date, or date, `T` or space, and time -> that moment in UTC, without its zone; without one it is UTC.

    Raises:
      ValueError: it is neither, or in UTC not of the years 1 to 9999.
    """
    # A date with a zone is no date, which Python reads as a time.
    if len(text) > len("2024-05-01") and text[10] not in "T ":
        raise ValueError(text)
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        try:
            moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
        except OverflowError:
            raise ValueError(text) from None
    return moment


def end_of(text: str) -> datetime.datetime:
    """A date -> the last second of its day, a time -> itself; see `moment_of`.

    Raises:
      ValueError: it is neither.
    """
    moment = moment_of(text)
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return moment
    return moment.replace(hour=23, minute=59, second=59)
