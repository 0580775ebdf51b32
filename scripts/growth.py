"""How seconds and memory grow with users, products and purchases, on synthetic shops: points, exponents and plots."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import sides


@dataclasses.dataclass(frozen=True)
class Axis:
    """What grows while the rest stays.

    Attributes:
      name: of what grows.
      shops: (users, products, purchases of a user).
      varies: which of the three.
    """

    name: str
    shops: tuple[tuple[int, int, int], ...]
    varies: int

    @property
    def sizes(self) -> list[int]:
        """Of what grows."""
        return [shop[self.varies] for shop in self.shops]


AXES = (
    Axis("users", ((1_000, 5_000, 50), (2_000, 5_000, 50), (4_000, 5_000, 50), (8_000, 5_000, 50)), 0),
    Axis("products", ((1_000, 5_000, 50), (1_000, 20_000, 50), (1_000, 80_000, 50), (1_000, 200_000, 50)), 1),
    Axis("purchases of a user", ((1_000, 5_000, 25), (1_000, 5_000, 50), (1_000, 5_000, 100), (1_000, 5_000, 200)), 2),
)
MODELS: dict[str, dict[str, Any]] = {
    "ae": {"batch_size": 64, "epochs": 3},
    "multvae": {"hidden": [600], "latent_dim": 200, "batch_size": 100, "epochs": 3},
    "ease": {},
}


def measure(axis: Axis, model: str, *, repeats: int, device: str | None) -> dict[str, Any]:
    """The points of a curve, each in fresh processes, and the fitted exponents."""
    points = []
    for users, items, purchases in axis.shops:
        options = {
            "users": users,
            "items": items,
            "purchases": purchases,
            "model": model,
            "settings": MODELS[model],
            "device": device,
        }
        side = sides.own("synthetic_epoch", options)
        reports = [sides.run(side, Path()) for _ in range(repeats)]
        seconds = machine.median_range([report["seconds"] for report in reports])
        memory = {
            name: machine.median_range([report[name] for report in reports])
            for name in ("megabytes", "device_megabytes")
            if name in reports[0]
        }
        points.append({"seconds": seconds, **memory, "work": reports[0]["work"]})
    fitted = {
        name: machine.exponent(axis.sizes, [point[name]["median"] for point in points])
        for name in ("seconds", "megabytes", "device_megabytes")
        if name in points[0]
    }
    return {"axis": axis.name, "model": model, "sizes": axis.sizes, "points": points, "exponents": fitted}


def line(curve: dict[str, Any]) -> str:
    """A curve as a line of text."""
    cells = [
        f"{size:,}: {point['seconds']['median']:.3g} s, {point['megabytes']['median']:,.0f} MB"
        for size, point in zip(curve["sizes"], curve["points"], strict=True)
    ]
    grows = ", ".join(f"{name} ~ n^{power:.2f}" for name, power in curve["exponents"].items())
    return f"{curve['model']}, {curve['axis']}: {grows}   ({'; '.join(cells)})"


def plot(curves: Sequence[dict[str, Any]], out: Path) -> None:
    """Seconds and memory over what grows, all models of one axis, as SVG."""
    from matplotlib import pyplot
    from matplotlib.ticker import NullLocator

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, label, panel in zip(("seconds", "megabytes"), ("seconds", "peak memory, MB"), panels, strict=True):
        for curve in curves:
            values = [point[name] for point in curve["points"]]
            medians = [value["median"] for value in values]
            ends = [
                [value["median"] - value["min"] for value in values],
                [value["max"] - value["median"] for value in values],
            ]
            text = f"{curve['model']}, n^{curve['exponents'][name]:.2f}"
            panel.errorbar(curve["sizes"], medians, ends, marker="o", capsize=3, label=text)
        panel.set(xscale="log", yscale="log", xlabel=curves[0]["axis"], ylabel=label)
        panel.set_xticks(curves[0]["sizes"], [f"{size:,}" for size in curves[0]["sizes"]])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.legend(frameon=False)
    figure.savefig(out / f"growth-{curves[0]['axis'].replace(' ', '-')}.svg", metadata={"Date": None})
    pyplot.close(figure)
