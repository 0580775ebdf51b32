"""The page of a check: its plain data -> one self-contained HTML page, as `aejax.report` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style

from aejax.figures import PLOT_STYLE, of_distributions
from aejax.report import template


def render_check(title: str, summary: Sequence[str], checked: Mapping[str, Any]) -> str:
    """The HTML page of a check.

    Args:
      title: of the page.
      summary: what the data hold, in sentences.
      checked: what `checking.check` gave.

    Returns:
      One file that needs no other; the same data give the same bytes.
    """
    with matplotlib.style.context(["default", PLOT_STYLE]):
        spread = of_distributions(checked["distributions"])
    return template("check.html.jinja").render(title=title, summary=summary, checked=checked, spread=spread)
