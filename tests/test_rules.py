from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest

from aejax.experiment.recommending import doubtful_moment
from aejax.interactions import Interactions, Vocabulary
from aejax.rules import read_rules
from tests.shops import run, write_shop


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Products of four categories, one of them a formula; customers of two countries, every fifth without consent."""
    place = tmp_path_factory.mktemp("rules")
    shop = write_shop(place / "shop")
    products = pd.read_csv(shop / "products.csv", dtype=str)
    number = products["sku"].astype(int)
    products["title"] = np.where(number == 3, "=1+1", products["title"])
    products = products.assign(category=[f"C{n % 4}" for n in number], link=[f"https://x/{n}" for n in number])
    products["status"] = np.where(number == 5, "draft", "active")
    products.to_csv(shop / "products.csv", index=False)
    customers = pd.read_csv(shop / "customers.csv", dtype=str)
    who = customers["customer_id"].astype(int)
    customers = customers.assign(consent=np.where(who % 5 == 0, "no", "yes"), country=np.where(who % 2, "FR", "DE"))
    customers.to_csv(shop / "customers.csv", index=False)
    assert run("fit", shop, "--model", "ease", "--min-customers", 1, "--run", place / "run") == 0
    return place / "run"


def recommended(fitted, tmp_path, rules: str, *options: object, top: int = 3, name: str = "r.csv"):
    (tmp_path / "rules.toml").write_text(rules)
    out = tmp_path / name
    code = run("recommend", fitted, "--top", top, "--rules", tmp_path / "rules.toml", "--out", out, *options)
    if code:
        return code, None
    account = json.loads((tmp_path / f"{name}.manifest.json").read_text())
    return pd.read_csv(out, dtype={"customer_id": str, "sku": str, "sku_1": str}), account


def test_products_are_masked_and_counted(fitted, tmp_path):
    rules = 'published = true\n[only]\ncategory = ["c0", "C1"]\n[never]\nsku = ["000"]'
    frame, account = recommended(fitted, tmp_path, rules, "--repeat", "include")
    allowed = {f"{n:03d}" for n in range(16) if n % 4 < 2} - {"000", "005"}
    assert set(frame["sku"]) <= allowed and set(frame.groupby("customer_id").size()) == {3}
    assert account["products"]["taken"] == {"published": 1, "only category": 8, "never sku": 1}
    assert account["rows"] == len(frame)


def test_at_most_and_what_is_too_short_is_said(fitted, tmp_path, capsys):
    frame, account = recommended(fitted, tmp_path, "[at_most]\ncategory = 1", "--repeat", "include", top=4)
    category = frame["sku"].astype(int) % 4
    assert set(category.groupby(frame["customer_id"]).nunique()) == {4} and account["customers"]["with_short_list"] == 0
    frame, account = recommended(fitted, tmp_path, "[at_most]\ncategory = 1", "--repeat", "include", top=6)
    assert set(frame.groupby("customer_id").size()) == {4}
    assert account["customers"]["with_short_list"] == 41
    assert account["products"]["taken_from_short_lists"] == {"at_most": 41 * 12}
    assert "41 customers have fewer than 6 products left" in capsys.readouterr().out


def test_consent_and_segments_leave_customers_out(fitted, tmp_path):
    frame, account = recommended(fitted, tmp_path, '[consent]\nconsent = "yes"\n[segments]\ncountry = "FR"')
    who = frame["customer_id"].astype(int)
    assert ((who % 5 != 0) & (who % 2 == 1)).all() and account["customers"]["left_out"] == {
        "consent consent": 9,
        "segments country": 16,
    }


def test_stock_and_earlier_lists(fitted, tmp_path, capsys):
    stock = tmp_path / "stock.csv"
    stock.write_text("sku,quantity\n" + "".join(f"{n:03d},{n % 2}\n" for n in range(16)) + "unheard,1\n")
    frame, _ = recommended(fitted, tmp_path, "", "--in-stock", stock, "--repeat", "include")
    assert (frame["sku"].astype(int) % 2 == 1).all()
    assert '1 SKU of 17 unknown to this run: "unheard"' in capsys.readouterr().out
    earlier = tmp_path / "r.csv"
    again, _ = recommended(fitted, tmp_path, "", "--exclude", earlier, "--repeat", "include", name="again.csv")
    pairs = [set(zip(one["customer_id"], one["sku"], strict=True)) for one in (frame, again)]
    assert len(pairs[1]) == 41 * 3 and not pairs[0] & pairs[1]
    stock.write_text("sku\nunheard\n")
    assert recommended(fitted, tmp_path, "", "--in-stock", stock)[0] == 1
    assert "none of its 1 SKU is a product of this run" in capsys.readouterr().err


def test_what_was_bought_lately_does_not_come_again(fitted, tmp_path):
    frame, _ = recommended(fitted, tmp_path, "not_bought_days = 400", "--repeat", "include", top=8)
    fresh, _ = recommended(fitted, tmp_path, "", "--repeat", "exclude", top=8)
    pd.testing.assert_frame_equal(frame, fresh)


def test_formulas_are_escaped_unless_raw(fitted, tmp_path):
    for options, title in (((), "'=1+1"), (("--raw",), "=1+1")):
        frame, _ = recommended(fitted, tmp_path, '[only]\nsku = "003"', "--repeat", "include", *options, top=1)
        assert set(frame["title"]) == {title} and set(frame["link"]) == {"https://x/3"}
        assert list(frame.columns) == ["customer_id", "rank", "sku", "title", "score", "basis", "link"]


def test_wide_and_why_and_holdout(fitted, tmp_path):
    long, _ = recommended(fitted, tmp_path, "", "--why")
    wide, account = recommended(fitted, tmp_path, "", "--wide", "--why", "--holdout", "25%", name="w.csv")
    control = pd.read_csv(tmp_path / "w.holdout.csv", dtype={"customer_id": str, "sku_1": str})
    assert len(control) == account["customers"]["held_out"] == 10
    assert set(control["customer_id"]) | set(wide["customer_id"]) == set(long["customer_id"])
    assert not set(control["customer_id"]) & set(wide["customer_id"])
    both = pd.concat([wide, control]).set_index("customer_id").sort_index()
    first = long[long["rank"] == 1].set_index("customer_id").sort_index()
    assert both["sku_1"].tolist() == first["sku"].tolist()
    assert first.loc["000", "why"].endswith("%") and pd.isna(first.loc["040", "why"])
    again, _ = recommended(fitted, tmp_path, "", "--wide", "--why", "--holdout", "0.25", name="w.csv")
    pd.testing.assert_frame_equal(wide, again)


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ("onyl = 1", 'no rule is called "onyl"; did you mean "only"?'),
        ('[only]\ncategry = "C1"', 'no such column; did you mean "category"?'),
        ('[only]\ncategory = "C11"', 'no row of products.csv has "C11" there; did you mean "c1"?'),
        ('[never]\ncategory = "Alcohl"', 'never] category: no row of products.csv has "Alcohl" there'),
        ('[only]\nsku = "999"', 'no row of products.csv has "999" there'),
        ("[at_most]\ncategory = 0", "expected a whole number from 1"),
        ("new = 1", "new = 1 of the rules needs a run that was fitted with --new-products"),
        ("new = ", "is not TOML"),
        (
            '[only]\nsku = "005"\n[never]\ncategory = "C1"',
            "the rules leave none of 16 products sold: only sku took 15, never category took 1",
        ),
        ('[consent]\nconsent = "no"\n[segments]\ncountry = "XX"', 'no row of customers.csv has "XX" there'),
    ],
)
def test_rules_that_cannot_be_followed(fitted, tmp_path, capsys, rules, says):
    assert recommended(fitted, tmp_path, rules)[0] == 1
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1
    assert not list(tmp_path.glob("r.csv*"))


@pytest.mark.parametrize("rule", ['[never]\ncategory = ["C11", "C1"]', '[only]\ncategory = ["C0", "C2", "C11", "C3"]'])
def test_a_value_that_no_product_has_is_noted_and_the_others_hold(fitted, tmp_path, capsys, rule):
    frame, account = recommended(fitted, tmp_path, rule, "--repeat", "include")
    assert set(frame["sku"].astype(int) % 4) == {0, 2, 3}
    (note,) = account["notes"]
    assert 'category: no row of products.csv has "C11" there; did you mean "c1"?' in note
    assert f"Note: {note}." in capsys.readouterr().out


def test_never_of_a_sku_that_is_no_longer_there_takes_nothing(fitted, tmp_path):
    frame, account = recommended(fitted, tmp_path, '[never]\nSKU = "999"')
    plain, none = recommended(fitted, tmp_path, "")
    assert account["products"]["taken"] == {"never SKU": 0} and len(account["notes"]) == 1 and none["notes"] == []
    pd.testing.assert_frame_equal(frame, plain)


def test_days_that_change_nothing_are_said_to(fitted, tmp_path, capsys):
    _, account = recommended(fitted, tmp_path, "not_bought_days = 90")
    assert account["notes"][0].startswith("not_bought_days = 90 of the rules does nothing")
    assert "it is for --repeat include." in " ".join(capsys.readouterr().out.split())
    _, account = recommended(fitted, tmp_path, "not_bought_days = 90", "--repeat", "include")
    assert account["notes"] == []


def moments(*days: str) -> Interactions:
    number = np.arange(len(days), dtype=np.int32)
    ids = Vocabulary.of(f"{one:03d}" for one in number)
    at = np.array(days, dtype="datetime64[s]")
    return Interactions(number, number, np.ones_like(number), ids, ids, order=number, at=at)


def test_one_far_date_to_which_all_ages_count_is_said():
    usual = ("2024-01-01", "2024-02-01", "2024-03-01")
    assert doubtful_moment(moments(*usual, "2024-04-25"), "o.csv") == []  # 55 days behind, of 60
    (far,) = doubtful_moment(moments(*usual, "2024-05-10"), "o.csv")
    assert "last order of o.csv is of 2024-05-10, far behind all others" in far and far.endswith("give --on 2024-03-01")
    (future,) = doubtful_moment(moments(*usual, "2924-03-02"), "o.csv")
    assert "2924-03-02, in the future" in future and future.endswith("give --on 2024-03-01")
    (several,) = doubtful_moment(moments(*usual, "2924-01-01", "2924-03-01"), "o.csv")
    assert "2924-03-01, in the future" in several and several.endswith("give --on 2024-03-01")
    for all_of_them in (("2924-01-01", "2924-03-01"), ("2924-03-01",)):  # there is no moment to look from
        (none,) = doubtful_moment(moments(*all_of_them), "o.csv")
        assert none.endswith("for every customer: correct it in the export")
    assert doubtful_moment(moments(usual[0], usual[2]), "o.csv") == []  # a period of two days has no usual gap
    assert doubtful_moment(dataclasses.replace(moments(*usual), at=None), "o.csv") == []


def test_recommend_names_the_far_date_and_its_file_once(tmp_path, capsys):
    shop = write_shop(tmp_path / "shop")
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    orders.loc[orders["order_id"] == orders["order_id"][7], "created_at"] = "2924-01-01"
    orders.to_csv(shop / "orders.csv", index=False)
    assert run("fit", shop, "--model", "popularity", "--split", "users", "--run", tmp_path / "run") == 0
    capsys.readouterr()
    assert run("recommend", tmp_path / "run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("last order of orders.csv is of 2924-01-01, in the future") == 1
    day = re.search(r"give --on (\S+)\.", said)[1]
    assert run("recommend", tmp_path / "run", "--on", day) == 0
    assert "in the future" not in capsys.readouterr().out


def test_the_place_of_a_far_date_is_the_folder_of_several_files_and_a_run_in_production_has_older_ones(
    tmp_path, capsys
):
    shop = tmp_path / "shop"
    shop.mkdir()
    for part, year in (("1", 2024), ("2", 2924)):
        days = [f"{year}-01-{day:02d} 09:58:12 +0000" for day in range(1, 13)]
        rows = [f"#{part}{n},c{n % 4}@x.org,paid,{at},1,S{n % 3},P{n % 3}\n" for n, at in enumerate(days)]
        header = "Name,Email,Financial Status,Created at,Lineitem quantity,Lineitem sku,Lineitem name\n"
        (shop / f"orders_export_{part}.csv").write_text(header + "".join(rows))
    (shop / "customers_export.csv").write_text("Customer ID,Email\n" + "".join(f"{n},c{n}@x.org\n" for n in range(4)))
    options = ("--model", "popularity", "--split", "users", "--min-customers", 1)
    assert run("fit", shop, *options, "--run", tmp_path / "run") == 0
    assert run("refit", tmp_path / "run", "--run", tmp_path / "all") == 0
    for name, place in (("run", str(shop)), ("all", f"this run, whose latest exports are {shop},")):
        capsys.readouterr()
        assert run("recommend", tmp_path / name, "--top", 1, "--repeat", "include") == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"the last order of {place} is of 2924-01-12, in the future" in said
        assert said.count("give --on 2024-01-12.") == 1


def test_a_file_of_rules_is_read_as_it_stands(tmp_path):
    (tmp_path / "r.toml").write_text("new = 2\n[only]\nvendor = 'A'\n[at_most]\nvendor = 3")
    rules = read_rules(tmp_path / "r.toml")
    assert rules.to_json() == {"only": {"vendor": ("A",)}, "at_most": {"vendor": 3}, "new": 2}
