"""What became of an earlier file of recommendations."""

import json

import numpy as np
import pandas as pd
import pytest

from aejax import hindsight, runs
from aejax.config import DataConfig
from aejax.errors import InputError
from aejax.experiment import judging
from aejax.experiment.reading import read_lists
from tests.shops import ORDER_COLUMNS, run

BEFORE = [
    ("o1", "ann", "2024-01-01", "a", 1),
    ("o2", "bob", "2024-01-01", "a", 1),
    ("o3", "bob", "2024-01-02", "b", 1),
    ("o4", "cid", "2024-01-03", "b", 1),
    ("o5", "dot", "2024-01-03", "b", 1),
    ("o6", "dot", "2024-01-03", "c", 1),
]
AFTER = [
    ("o7", "ann", "2024-02-01", "c", 2),  # rank 1 of ann
    ("o8", "ann", "2024-02-03", "b", 4),  # what was popular, for ann, and rank 2
    ("o9", "bob", "2024-02-03", "d", 3),
    ("o9", "bob", "2024-02-03", "c", 1),  # rank 1 of bob, and sent back
    ("o10", "bob", "2024-02-04", "c", -1),
    ("o11", "eve", "2024-02-04", "a", 1),
]
LISTS = [("ann", 1, "c"), ("ann", 2, "b"), ("bob", 1, "c"), ("bob", 2, "d"), ("cid", 1, "a"), ("cid", 2, "d")]


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    prices = {"a": 1.0, "b": 2.0, "c": 5.0, "d": 0.5}
    orders = pd.DataFrame([*BEFORE, *AFTER], columns=ORDER_COLUMNS)
    orders.assign(lineitem_price=orders["lineitem_sku"].map(prices)).to_csv(folder / "orders.csv", index=False)
    customers = ["ann", "bob", "cid", "dot", "eve"]
    cities = ["x", "x", "x", "y", "y"]
    pd.DataFrame({"customer_id": customers, "city": cities}).to_csv(folder / "customers.csv", index=False)
    pd.DataFrame({"sku": [*"abcd", "=e"]}).to_csv(folder / "products.csv", index=False)
    return folder


def listed(path, rows=LISTS):
    frame = pd.DataFrame(rows, columns=["customer_id", "rank", "sku"])
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["lists.csv", "lists.csv.gz", "lists.parquet"])
def test_rows_that_were_bought_are_counted_by_rank_in_pieces_and_in_revenue(shop, tmp_path, name):
    result = judging.hindsight(listed(tmp_path / name), DataConfig(str(shop)), after="2024-01-31")
    first, both = result["cuts"]["1"], result["cuts"]["2"]
    assert (first["rows"], first["bought"], first["pieces"], first["revenue"]) == (3, 1, 2, 10.0)
    assert (both["rows"], both["bought"], both["pieces"], both["revenue"]) == (6, 3, 9, 10.0 + 8.0 + 1.5)
    assert both["share"]["mean"] == 0.5 and result["customers"] == 3
    # Popular then were b (3 customers), a (2) and c (1), without what each had: ann b, c; bob c; cid a, c.
    assert first["popularity"]["bought"] == 1 and both["popularity"]["bought"] == 2
    assert both["popularity"]["rows"] == 5


def test_a_list_of_what_was_bought_before_is_compared_with_popular_lists_that_may_repeat(shop, tmp_path):
    rows = [("ann", 1, "a"), ("bob", 1, "c")]  # ann had bought a
    result = judging.hindsight(listed(tmp_path / "lists.csv", rows), DataConfig(str(shop)), after="2024-01-31")
    assert result["cuts"]["1"]["popularity"]["bought"] == 1  # b for both, of which ann bought it


def test_what_was_bought_on_the_day_itself_is_not_afterwards(shop, tmp_path):
    file = listed(tmp_path / "lists.csv")
    assert judging.hindsight(file, DataConfig(str(shop)), after="2024-02-03")["cuts"]["2"]["bought"] == 0
    assert judging.hindsight(file, DataConfig(str(shop)), after="2024-02-02T23:00")["cuts"]["2"]["bought"] == 2


def test_the_manifest_says_when_and_who_was_left_out_by_chance(shop, tmp_path):
    file = listed(tmp_path / "lists.csv")
    listed(tmp_path / "lists.holdout.csv", [("dot", 1, "a"), ("eve", 1, "a")])
    manifest = {
        "file": {"sha256": runs.sha256(file)},
        "request": {"as_of": "2024-01-31T00:00:00", "repeat": "exclude"},
        "holdout": {"file": "lists.holdout.csv", "share": 0.4},
    }
    (tmp_path / "lists.csv.manifest.json").write_text(json.dumps(manifest))
    control = judging.hindsight(file, DataConfig(str(shop)))["control"]
    assert control["customers"] == 2
    assert control["buyers"]["treated"]["mean"] == pytest.approx(2 / 3)
    assert control["buyers"]["control"]["mean"] == 0.5
    assert control["orders"]["treated"]["mean"] == 1.0  # ann has two and bob one
    assert control["revenue"]["treated"]["mean"] == pytest.approx((10.0 + 8.0 + 1.5) / 3)
    assert control["revenue"]["difference"]["mean"] == pytest.approx(19.5 / 3 - 0.5)


def test_the_account_of_another_file_is_not_believed(shop, tmp_path):
    """As a recommend leaves it that was killed between the file and its account."""
    file = listed(tmp_path / "lists.csv")
    manifest = {
        "file": {"sha256": "0" * 64},
        "request": {"as_of": "2024-02-03T00:00:00", "repeat": "exclude"},
        "holdout": {"file": "lists.holdout.csv", "share": 0.4},
    }
    (tmp_path / "lists.csv.manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"account of another lists\.csv.*--after"):
        judging.hindsight(file, DataConfig(str(shop)))
    result = judging.hindsight(file, DataConfig(str(shop)), after="2024-01-31")
    assert result["cuts"]["2"]["bought"] == 3 and "control" not in result and "not used" in result["notes"][0]


def test_a_product_twice_in_a_list_is_bought_once_and_strangers_are_said(shop, tmp_path):
    rows = [("ann", 1, "c"), ("ann", 2, "c"), ("zoe", 1, "a")]
    result = judging.hindsight(listed(tmp_path / "lists.csv", rows), DataConfig(str(shop)), after="2024-01-31")
    assert (result["rows"], result["cuts"]["1"]["bought"], result["cuts"]["1"]["rows"]) == (2, 1, 2)
    assert result["notes"] == [f"1 customer of lists.csv not in {shop}: they count as having bought nothing"]


def test_a_row_whose_sku_is_blank_counts_as_one_that_nobody_bought(shop, tmp_path):
    rows = [("ann", 1, "c"), ("ann", 2, ""), ("bob", 1, "")]
    result = judging.hindsight(listed(tmp_path / "lists.csv", rows), DataConfig(str(shop)), after="2024-01-31")
    assert (result["rows"], result["cuts"]["2"]["bought"], result["cuts"]["2"]["rows"]) == (3, 1, 3)


def test_names_of_parquet_columns_are_masked_in_messages(tmp_path):
    pd.DataFrame({"anna@x.example": ["ann"], "rank": [1]}).to_parquet(tmp_path / "lists.parquet", index=False)
    with pytest.raises(InputError, match=r'no column "sku" \(there are: a\.\.\.@\.\.\., rank\)'):
        read_lists(tmp_path / "lists.parquet")


def test_wide_files_and_escaped_cells_are_read(shop, tmp_path):
    wide = pd.DataFrame({"customer_id": ["ann", "bob"], "sku_1": ["c", "c"], "title_1": ["C", "C"], "sku_2": ["b", ""]})
    wide.to_csv(tmp_path / "wide.csv", index=False)
    found = read_lists(tmp_path / "wide.csv")
    assert sorted(found.itertuples(index=False, name=None)) == [("ann", "b", 2), ("ann", "c", 1), ("bob", "c", 1)]
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    orders.loc[orders["lineitem_sku"] == "d", "lineitem_sku"] = "=e"
    orders.to_csv(shop / "orders.csv", index=False)
    file = listed(tmp_path / "lists.csv", [("bob", 1, "'=e")])
    assert judging.hindsight(file, DataConfig(str(shop)), after="2024-01-31")["cuts"]["1"]["bought"] == 1


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Shares of customers with lists of different lengths, drawn again and again."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(40):
        rows = rng.integers(1, 10, 300).astype(float)
        frame = pd.DataFrame({"rows": rows, "bought": rng.binomial(rows.astype(int), 0.2).astype(float)})
        low, high = hindsight.hit_figures(frame, None)["share"]["ci95"]
        held += low <= 0.2 <= high
    assert 33 <= held <= 40


def test_the_command_prints_and_writes_the_same_and_segments_stand_alone(shop, tmp_path, capsys):
    file = listed(tmp_path / "lists.csv")
    out = tmp_path / "figures.json"
    assert run("hindsight", file, shop, "--after", "2024-01-31", "--segment", "city", "--json", out) == 0
    said = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["segments"].keys() == {"x"} and result["segments"]["x"] == result["cuts"]["2"]
    assert "19.50" in said and "0.5000" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --after DATE"),
        (["--after", "yesterday"], "expected a date such as 2024-05-01"),
        (["--after", "2025-01-01"], "no order after"),
        (["--after", "2024-01-31", "--segment", "citty"], "city"),
    ],
)
def test_what_cannot_be_judged_is_one_message(shop, tmp_path, capsys, options, said):
    assert run("hindsight", listed(tmp_path / "lists.csv"), shop, *options) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [("customer_id,rank\na,1\n", 'no column "sku"'), ("customer_id,rank,sku\na,x,b\n", "whole number"), ("", "empty")],
)
def test_other_files_are_one_message(shop, tmp_path, capsys, content, said):
    (tmp_path / "lists.csv").write_text(content)
    assert run("hindsight", tmp_path / "lists.csv", shop, "--after", "2024-01-31") == 1
    assert said in capsys.readouterr().err
    assert run("hindsight", tmp_path / "none.csv", shop) == 1
    assert "is no file" in capsys.readouterr().err
