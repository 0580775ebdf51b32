"""The one error that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The data or the arguments are at fault. The message names the value, the place and the remedy."""


class ResourceError(InputError):
    """The machine has too little disk or memory. What was kept before it is sound, and may be resumed elsewhere."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean "x"? Known: a, b, c` for the message of an unknown name."""
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    proposal = f'did you mean "{close[0]}"? ' if close else ""
    return f"{proposal}Known: {', '.join(known)}"
