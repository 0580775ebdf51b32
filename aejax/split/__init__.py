"""Protocols: every one cuts the interactions and returns the one `Split`.

Returns are netted within a part, after the cut: what is sent back later changes nothing that was known before.
Ages end at the cut as well, in what a model learns from and in what it is given: each customer's own cut, and for a
customer who has none (nothing is held out) the latest purchase of the part.
"""

from aejax.split.parts import HeldOut, Split, held_out
from aejax.split.protocols import resolve_protocol, split

__all__ = ["HeldOut", "Split", "held_out", "resolve_protocol", "split"]
