"""What a person sees: progress and tables. rich is imported when something is shown, so that --help stays quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aejax.headings import REVENUE, digits, task_columns, with_revenue

if TYPE_CHECKING:
    from rich.console import Console


def make_console() -> Console:
    """Where commands print."""
    from rich.console import Console

    # Titles and paths are text, not markup. Tables of figures need room; without a terminal rich assumes 80 columns.
    width = None if Console().is_terminal else 120
    return Console(soft_wrap=True, width=width, markup=False, highlight=False)


class EpochProgress:
    """A line per model and stage that shows epoch, loss and validation score."""

    def __init__(self, console: Console):
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("epoch {task.fields[epoch]}"),
            TextColumn("loss {task.fields[loss]:.4g}"),
            TextColumn("validation ndcg@100 {task.fields[score]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> EpochProgress:
        self.bars.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.bars.stop()

    def epoch(self, label: str, record: Mapping[str, Any]) -> None:
        """Show an epoch's record, or what a closed form decided."""
        if "epoch" not in record:
            self.bars.console.print(f"{label}: {in_words(record)}")
            return
        score = f"{record['validation']:.4f}" if "validation" in record else "-"
        fields = {"epoch": record["epoch"], "loss": record["loss"], "score": score}
        if label not in self.tasks:
            for task in self.tasks.values():
                self.bars.stop_task(task)
            self.tasks[label] = self.bars.add_task(label, total=None, **fields)
        self.bars.update(self.tasks[label], **fields)


def in_words(facts: Any) -> str:
    """What a fit decided: `side users`, or `weights (ease 0.5, gfcf 0.5), validation 0.17`."""
    if isinstance(facts, Mapping):
        words = (
            f"{name} ({in_words(value)})" if isinstance(value, Mapping) else f"{name} {in_words(value)}"
            for name, value in facts.items()
        )
        return ", ".join(words)
    return f"{facts:.4g}" if isinstance(facts, float) else str(facts)


SHOWN = ("precision@10", "recall_all@10", "ndcg@100", "hit@10", "coverage@10")


def _cell(metric: Mapping[str, Any], key: str = "") -> str:
    mean, *interval = (format(value, digits(key)) for value in (metric["mean"], *(metric["ci95"] or ())))
    return mean if not interval else f"{mean}\n[{', '.join(interval)}]"


def print_metrics(console: Console, models: Mapping[str, Mapping[str, Any]], result: Mapping[str, Any]) -> None:
    """A row per model, and what the figures are of; where there are two tasks, a row per model of both."""
    from rich.table import Table

    shown = with_revenue(SHOWN, models)
    table = Table("model", *shown, show_lines=True)
    for name, row in models.items():
        table.add_row(name, *(_cell(row["metrics"][key], key) if key in row["metrics"] else "-" for key in shown))
    console.print(table)
    console.print(
        f"Protocol {result['protocol']}, repeat purchases {result['repeat']}d: {result['users']:,} customers tested, "
        f"{result['users_left_out']:,} left out for want of inputs or targets. Brackets: 95% bootstrap intervals."
    )
    if REVENUE in shown:
        console.print(
            f"{REVENUE}: what a customer paid for the hits among the first 10, in the currency of the orders."
        )
    if result["note"]:
        console.print(f"Note: {result['note']}.")
    tasks = {name: row["tasks"] for name, row in models.items() if row.get("tasks")}
    if tasks:
        _print_tasks(console, tasks, result)


def _print_tasks(console: Console, models: Mapping[str, Mapping[str, Any]], result: Mapping[str, Any]) -> None:
    """ndcg@100 of both tasks, a row per model, and what they are."""
    from rich.table import Table

    columns = task_columns(next(iter(models.values())))
    table = Table("ndcg@100", *columns, show_lines=True)
    for name, tasks in models.items():
        found = [tasks[task][kind] if kind else tasks[task] for task, kind in columns.values()]
        table.add_row(name, *(_cell(one["metrics"]["ndcg@100"]) if one["metrics"] else "-" for one in found))
    console.print(table)
    if "cold" in next(iter(models.values())):
        console.print(
            "Cold products are in no purchase that the model learnt from. Their purchases are the targets in both "
            "columns: in lists of cold products alone, and in lists of all products."
        )
        return
    tasks = next(iter(models.values()))
    repeat, new = tasks["include"]["repeat_targets"], tasks["include"]["new_targets"]
    console.print(
        f"Next: what is bought next, again or for the first time ({tasks['include']['users']:,} customers; "
        f"{repeat['share']:.1%} of the {repeat['targets'] + new['targets']:,} targets are repeats), and the repeat and "
        f"the new targets apart, in the same lists. First time: products not bought before "
        f"({tasks['exclude']['users']:,} customers). Every choice was made for --repeat {result['repeat']}."
    )


def print_comparison(console: Console, result: Mapping[str, Any]) -> None:
    """The table, each model's difference to the first, and what it means to a shop."""
    print_metrics(console, result["models"], result)
    for name, row in result["models"].items():
        if "difference" in row:
            difference = row["difference"]["metrics"]["ndcg@100"]
            low, high = difference["ci95"]
            console.print(
                f"{name} against {row['difference']['to']}, same customers: ndcg@100 {difference['mean']:+.4f} "
                f"[{low:+.4f}, {high:+.4f}]"
            )
    best, first = result["best_on_validation"], next(iter(result["models"]))
    hits = {name: 10 * row["metrics"]["precision@10"]["mean"] for name, row in result["models"].items()}
    console.print(
        f"In words: of ten products shown to each customer by {best}, the best on validation, {hits[best]:.2f} on "
        "average were among the customer's held-out purchases"
        + (f"; by {first} {hits[first]:.2f}." if best != first else ".")
    )


def print_account(console: Console, out: Path, account: Mapping[str, Any]) -> None:
    """What was recommended to how many, on what basis, and what rules took from it."""
    customers, products, top = account["customers"], account["products"], account["request"]["top"]
    console.print(f"Wrote {account['rows']:,} recommendations for {customers['with_list']:,} customers to {out}.")
    if account["request"]["new_places"]:
        number = account["rows_by_attributes"]
        console.print(f"{number:,} of the recommendations are of new products, by their attributes.")
    if popular := customers["popular"]:
        console.print(f"{popular:,} of them have no usable history and get the most popular products.")
    if new := customers["customer-attributes"]:
        console.print(f"{new:,} of them have no usable history and get what customers of the same attributes buy.")
    if unknown := customers["mean-customer"]:
        console.print(
            f"{unknown:,} of them are unknown to the model, or to a part of it, which scores their history as the mean "
            "of the customers it was trained on."
        )
    for rule, number in customers["left_out"].items():
        console.print(f"{rule} left out {number:,} of {customers['asked']:,} customers.")
    if holdout := account["holdout"]:
        console.print(
            f"{customers['held_out']:,} customers are left out by chance as a control group; their lists, which are "
            f"not to be sent, are in {out.with_name(holdout['file'])}."
        )
    if account["join"] is not None:
        missing = account["join"]["without_address"]
        console.print(f"{out} holds e-mail addresses, and no other file does; for {missing:,} customers there is none.")
    if products["taken"]:
        remain = products["sold"] - sum(products["taken"].values())
        console.print(f"Of {products['sold']:,} products sold {_taken(products['taken'])}; {remain:,} remain.")
    if short := customers["with_short_list"]:
        console.print(
            f"{short:,} customers have fewer than {top} products left. Of the products sold, in all these lists "
            f"together, {_taken(products['taken_from_short_lists'])}."
        )


def _taken(taken: Mapping[str, int]) -> str:
    """`only category took 300, in stock took 12`."""
    return ", ".join(f"{name} took {number:,}" for name, number in taken.items())


def trial_line(record: Mapping[str, Any]) -> str:
    """A trial of `tune` in one line."""
    end = f"{record['validation']:.4f}" if record["state"] == "complete" else record["state"]
    settings = " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in record["settings"].items()
    )
    return f"trial {record['trial']:3d}  {end:8s}  {settings}  {record.get('message', '')}".rstrip()


def print_hindsight(console: Console, result: Mapping[str, Any]) -> None:
    """What was bought of recommendations, by their first places, by segments, and against the control group."""
    from rich.table import Table

    def table_of(first: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
        with_revenue = any("revenue" in row for row in rows.values())
        table = Table(
            first, "rows", "bought", "share", "popularity", "difference", "pieces", *["revenue"] * with_revenue
        )
        for name, row in rows.items():
            others = (
                [_cell(row["popularity"]["share"]), _cell(row["difference"])] if "popularity" in row else ["-", "-"]
            )
            cells = [
                f"{row['rows']:,.0f}",
                f"{row['bought']:,.0f}",
                _cell(row["share"]),
                *others,
                f"{row['pieces']:,.0f}",
            ]
            table.add_row(name, *cells, *([f"{row['revenue']:,.2f}"] if with_revenue else []))
        return table

    console.print(
        f"{result['rows']:,} recommendations for {result['customers']:,} customers, and what was bought after "
        f"{result['after']} and up to {result['until']}. Brackets: 95% bootstrap intervals over customers."
    )
    console.print(table_of("first places", result["cuts"]))
    if "segments" in result:
        console.print(table_of(result["segment"], result["segments"]))
    if "control" in result:
        table = Table("per customer", "with lists", "control group", "difference")
        for name, figures in result["control"].items():
            if name != "customers":
                table.add_row(name, *(_cell(figures[group]) for group in ("treated", "control", "difference")))
        console.print(table)
        console.print(f"The control group: {result['control']['customers']:,} customers left out by chance.")
    for note in result["notes"]:
        console.print(f"Note: {note}.")
