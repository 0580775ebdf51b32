from __future__ import annotations

import copy
import html.parser
import re
import subprocess
import sys
from typing import Any

import pytest

from aejax import report

HOSTILE = '<script>alert("x")</script>'


def metrics(level: float, half_width: float = 0.01) -> dict[str, Any]:
    keys = [f"{name}@{k}" for name in ("precision", "recall", "recall_all", "ndcg", "hit") for k in report.CUTOFFS]
    with_interval = {
        key: {"mean": level, "ci95": [level - half_width, level + half_width]} for key in [*keys, "map@10", "mrr@10"]
    }
    return {**with_interval, "coverage@10": {"mean": level / 2, "ci95": None}}


def make_page() -> dict[str, Any]:
    epochs = [{"stage": "select", "epoch": e, "loss": 5.0 / e, "validation": 0.1 + 0.01 * e} for e in (1, 2, 3)]
    refit = [{"stage": "refit", "epoch": e, "loss": 4.0 / e} for e in (1, 2)]
    return {
        "title": "A shop",
        "summary": ["12 customers bought 9 products."],
        "quality": {
            "files": {
                "orders.csv": {
                    "read": 12345,
                    "kept": 12000,
                    "merged": 300,
                    "netted": 38,
                    "dropped": {"no customer": {"rows": 7, "lines": [2, 4, 6, 8, 10, 12, 14]}},
                }
            },
            "warnings": ["no dates before 2017"],
        },
        "looked": None,
        "protocol": "time",
        "repeat": "exclude",
        "users": 1234,
        "users_left_out": 1,
        "note": "",
        "customers": 1500,
        "products": 9,
        "best": "multvae",
        "tasks": {},
        "models": {
            "popularity": {"metrics": metrics(0.2), "validation": 0.19, "settings": {}, "epochs": None, "tasks": {}},
            "multvae": {
                "metrics": metrics(0.25),
                "validation": 0.24,
                "settings": {"hidden": [600, 200], "nested": {"rate": 0.5}},
                "epochs": 2,
                "tasks": {},
                "difference": {"to": "popularity", "metrics": metrics(0.05)},
            },
        },
        "logs": {"popularity": [], "multvae": [*epochs, *refit]},
        "facts": {"popularity": {}, "multvae": {"blend": {"weights": {"ease": 0.25}}}},
        "examples": [
            {
                "customer_id": "007",
                "bought": [{"sku": "s1", "title": "Milk", "orders": 3}],
                "bought_total": 4,
                "recommended": [
                    {"rank": 1, "sku": "s2", "title": "Bread", "score": -1.5, "basis": "model", "bought_later": True},
                    {"rank": 2, "sku": "s3", "title": "", "score": -2.5, "basis": "popular", "bought_later": False},
                ],
            }
        ],
        "environment": {"python": "3.11", "packages": {"jax": "0.8.1"}},
    }


def only_model(page: dict[str, Any]) -> dict[str, Any]:
    row = {key: value for key, value in page["models"]["multvae"].items() if key != "difference"}
    return {**page, "models": {"multvae": row}, "logs": {"multvae": page["logs"]["multvae"]}}


class Reader(html.parser.HTMLParser):
    """Checks that elements nest, and keeps the tags, the ids and every address that a browser could load."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def words(text: str) -> str:
    return " ".join(text.split())


def row_of(text: str, section: str, name: str) -> list[str]:
    """The cells of the row that `name` heads, in the first table after `section`."""
    body = text[text.index(section) :]
    body = body[: body.index("</table>")]
    rows = [words(row) for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)]
    (row,) = [row for row in rows if row.startswith(f'<th scope="row">{name}')]
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


def test_same_page_same_bytes_and_the_page_is_left_alone():
    page = make_page()
    before = copy.deepcopy(page)
    assert report.render(page) == report.render(copy.deepcopy(before))
    assert page == before


def test_bytes_do_not_depend_on_the_readers_matplotlib_settings():
    import matplotlib

    plain = report.render(make_page())
    with matplotlib.rc_context({"font.size": 20.0, "svg.fonttype": "path"}):
        assert report.render(make_page()) == plain
        assert matplotlib.rcParams["font.size"] == 20.0


def test_page_is_well_formed_and_loads_nothing():
    reader = Reader(report.render(make_page()))
    assert "script" not in reader.tags
    assert not {"link", "img", "iframe", "image"} & set(reader.tags)
    assert all(address.startswith("#") for address in reader.addresses)
    groups = [found for found in reader.ids if found in ("data", "results", "learning", "examples", "settings")]
    assert groups == ["data", "results", "learning", "examples", "settings"]
    assert not re.search(r"url\((?!#)", report.render(make_page()))


def test_hostile_text_is_escaped_wherever_it_comes_from():
    page = make_page()
    page |= {"title": HOSTILE, "note": HOSTILE, "summary": [HOSTILE], "best": HOSTILE, "protocol": HOSTILE}
    page["quality"]["warnings"] = [HOSTILE]
    page["quality"]["files"][HOSTILE] = page["quality"]["files"].pop("orders.csv") | {
        "dropped": {HOSTILE: {"rows": 1, "lines": [HOSTILE]}}
    }
    page["models"][HOSTILE] = page["models"].pop("multvae") | {"settings": {HOSTILE: HOSTILE}}
    page["logs"] = {HOSTILE: page["logs"]["multvae"]}
    page["facts"] = {HOSTILE: {"select": {"side": HOSTILE}}}
    customer = page["examples"][0]
    customer["customer_id"] = HOSTILE
    for row in [*customer["bought"], *customer["recommended"]]:
        row |= {"sku": HOSTILE, "title": HOSTILE}
    customer["recommended"][0]["basis"] = HOSTILE
    page["environment"] = {HOSTILE: HOSTILE}

    text = report.render(page)

    assert "<script" not in text
    assert "script" not in Reader(text).tags
    plots = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    drawn = "".join(re.findall(r"<text[^>]*>(.*?)</text>", "".join(plots), re.DOTALL))
    assert "&lt;script&gt;" in drawn
    assert f"<h1><bdi>{html.escape(HOSTILE, quote=False)}</bdi></h1>".replace('"', "&#34;") in text


def test_mathematics_in_a_name_is_drawn_as_it_stands():
    page = make_page()
    page["models"]["$\\frac$"] = page["models"]["popularity"]
    assert ">$\\frac$</text>" in report.render(page)


def test_best_mean_of_each_column_is_bold_and_no_other():
    page = make_page()
    page["models"]["popularity"]["metrics"]["mrr@10"] = {"mean": 0.9, "ci95": [0.8, 0.95]}
    text = report.render(page)
    popularity, multvae = (row_of(text, 'id="results"', name) for name in ("popularity", "multvae"))
    assert popularity[report.COLUMNS.index("mrr@10")] == "<strong>0.9000</strong><small>[0.8000, 0.9500]</small>"
    assert multvae[report.COLUMNS.index("mrr@10")] == "0.2500<small>[0.2400, 0.2600]</small>"
    assert ["<strong>" in cell for cell in popularity] == [key == "mrr@10" for key in report.COLUMNS]
    assert ["<strong>" in cell for cell in multvae] == [key != "mrr@10" for key in report.COLUMNS]
    assert multvae[report.COLUMNS.index("coverage@10")] == "<strong>0.1250</strong>"


def test_a_tie_is_bold_twice():
    page = make_page()
    page["models"]["popularity"]["metrics"] = page["models"]["multvae"]["metrics"]
    text = report.render(page)
    assert all("<strong>" in row_of(text, 'id="results"', name)[0] for name in ("popularity", "multvae"))


@pytest.mark.parametrize(
    ("low", "high", "holds"), [(-0.01, 0.03, True), (0.0, 0.02, True), (0.001, 0.02, False), (-0.03, -0.001, False)]
)
def test_difference_says_when_its_interval_holds_zero(low: float, high: float, holds: bool):
    page = make_page()
    page["models"]["multvae"]["difference"]["metrics"]["precision@10"] = {"mean": (low + high) / 2, "ci95": [low, high]}
    cell = row_of(report.render(page), "Differences, customer by customer", "multvae − popularity")[0]
    assert ("holds 0" in cell) == holds
    assert f"[{low:+.4f}, {high:+.4f}]".replace("-", "−") in cell


def test_headline_names_the_best_model_and_compares_it():
    text = words(report.render(make_page()))
    assert "1,500 customers and 9 products are in the data" in text
    assert "On validation, <b>multvae</b> was best." in text
    assert "for <b>25.0%</b> of them; with popularity, for 20.0%." in text
    assert "1 more customer had nothing to be tested with and is left out." in text
    assert "were neither recommended nor counted" in text
    assert "<aside" not in text


def test_repeat_purchases_are_said_to_count():
    assert "could be recommended again, and count" in report.render(make_page() | {"repeat": "include"})


def with_tasks(page: dict[str, Any]) -> dict[str, Any]:
    def kind(targets: int, share: float, level: float) -> dict[str, Any]:
        return {"targets": targets, "share": share, "users": 9, "metrics": metrics(level) if targets else {}}

    for level, row in zip((0.3, 0.4), page["models"].values(), strict=True):
        row["tasks"] = {
            "include": {
                "users": 1234,
                "metrics": metrics(level),
                "repeat_targets": kind(250, 0.25, level + 0.2),
                "new_targets": kind(750, 0.75, level - 0.2),
                "calibration": {
                    "predicted": level,
                    "observed": 0.25,
                    "groups": [
                        {"users": 600, "predicted": at, "observed": at / 2} for at in (level - 0.1, level + 0.1)
                    ],
                },
            },
            "exclude": {
                "users": 1000,
                "metrics": metrics(level - 0.1),
                "repeat_targets": kind(0, 0.0, 0.0),
                "new_targets": kind(750, 1.0, level - 0.1),
            },
        }
    return page | {"tasks": page["models"]["multvae"]["tasks"]}


def test_both_tasks_stand_side_by_side_with_the_share_of_repeats():
    heading = "What is bought next, and what for the first time"
    assert heading not in report.render(make_page())
    text = report.render(with_tasks(make_page()))
    assert "25.0% of the 1,000 products that the customers bought in the test part, they had bought before." in text
    cells = row_of(text, heading, "multvae")
    assert [cell[:6] for cell in cells] == ["0.4000", "0.6000", "0.2000", "0.3000"]
    assert [cell[:6] for cell in row_of(text, heading, "popularity")] == ["0.3000", "0.5000", "0.1000", "0.2000"]


def test_what_is_predicted_of_repeats_stands_beside_what_was_bought():
    text = report.render(with_tasks(make_page()))
    cells = row_of(text, "How large is the share of what was bought before?", "multvae")
    assert cells == ["0.4000 / 0.2500", "0.3000 / 0.1500", "0.5000 / 0.2500"]


def test_a_task_without_anyone_shows_a_dash():
    page = with_tasks(make_page())
    page["models"]["multvae"]["tasks"]["exclude"]["metrics"] = {}
    cells = row_of(report.render(page), "What is bought next, and what for the first time", "multvae")
    assert cells[3] == "–"


def test_a_leaking_protocol_says_so_before_anything_else():
    text = report.render(make_page() | {"protocol": "reconstruction", "note": "Scored on what it was trained on."})
    note = text.index('class="note leaks"')
    assert text.index("</h1>") < note < text.index('class="lead"')
    assert "<strong>These figures leak.</strong> Scored on what it was trained on." in text
    assert "already bought" in text
    assert "bought later" not in text
    assert "neither recommended" not in text


def test_every_row_of_a_file_is_accounted_for():
    cells = row_of(report.render(make_page()), 'id="data"', "<bdi>orders.csv</bdi>")
    assert cells[:5] == ["12,345", "12,000", "300", "38", "7"]
    assert "no customer: 7 <small>lines 2, 4, 6, 8, 10, …</small>" in cells[5]


def test_one_model_has_no_rival():
    text = report.render(only_model(make_page()))
    results = text[text.index('id="results"') : text.index('id="learning"')]
    assert "0.2500<small>[0.2400, 0.2600]</small>" in results
    for absent in ("<strong>", "best on validation", "Differences", "is bold", 'class="legend"', "per model, with"):
        assert absent not in results
    assert "On validation" not in text
    assert "for <b>25.0%</b> of them." in words(text)


def test_without_logs_there_is_no_learning_section():
    for logs in ({}, {"popularity": [], "multvae": []}):
        text = report.render(make_page() | {"logs": logs})
        assert 'id="learning"' not in text
        assert 'id="examples"' in text


def test_only_a_refit_shows_its_loss_and_no_validation():
    page = make_page()
    page["logs"]["multvae"] = [{"stage": "refit", "epoch": 1, "loss": 4.0}]
    text = report.render(page)
    assert "Training loss of multvae" in text
    assert "Validation ndcg@100 per epoch" not in text


def test_the_chosen_epoch_is_the_models_own_or_else_the_best_of_the_log():
    page = make_page()
    assert "Chosen: multvae epoch 2." in report.render(page)
    page["models"]["multvae"]["epochs"] = None
    assert "Chosen: multvae epoch 3." in report.render(page)


def test_examples_mark_what_was_bought_later_and_fall_back_to_the_sku():
    text = report.render(make_page())
    customer = words(text[text.index("<article") : text.index("</article>")])
    first, second = re.findall(r"<li[^>]*><span class=\"rank\">.*?</li>", customer)
    assert first.startswith('<li class="hit">')
    assert "<bdi>Bread</bdi>" in first
    assert "✓ bought later" in first
    assert "<bdi>s3</bdi>" in second
    assert "✓" not in second
    assert ">popular</span>" in second
    assert "1 of 2 bought later" in customer
    assert "and 3 more" in customer
    assert "Customer <bdi>007</bdi>" in customer


def test_without_examples_the_section_is_gone():
    text = report.render(make_page() | {"examples": []})
    assert 'id="examples"' not in text
    assert 'id="settings"' in text


def test_twelve_models_are_told_apart():
    page = make_page()
    page["models"] |= {f"model{i}": page["models"]["popularity"] for i in range(10)}
    legend = re.search(r'<ul class="legend".*?</ul>', report.render(page), re.DOTALL)
    assert legend is not None
    assert len(set(re.findall(r"<svg.*?</svg>", legend[0]))) == 12


def test_forest_puts_the_highest_on_top():
    page = make_page()
    page["models"]["vae"] = {"metrics": metrics(0.22), "validation": 0.2, "settings": {}, "epochs": None, "tasks": {}}
    assert "multvae 0.2500; vae 0.2200; popularity 0.2000." in report.render(page)


def test_nested_settings_and_environment_are_flattened():
    text = words(report.render(make_page()))
    assert '<th scope="row">hidden</th><td>600, 200</td>' in text
    assert '<th scope="row">nested.rate</th><td>0.5</td>' in text
    assert '<th scope="row">packages.jax</th><td>0.8.1</td>' in text
    assert '<th scope="row">blend.weights.ease</th><td>0.25</td>' in text
    assert "This model has no settings." in text


def test_report_imports_neither_jax_nor_pyplot():
    code = "import sys, aejax.report; print(sorted({'jax', 'flax', 'matplotlib.pyplot'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
