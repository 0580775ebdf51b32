"""E-mail addresses: written back only into the file that the user names, and read in place of ids."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from aejax.tables.addresses import hashed
from tests.shops import run, write_shop

DOMAIN = "shop.example"
GUESTS = [f"{n:03d}" for n in range(36, 40)]  # known by their addresses alone


def address(number: str) -> str:
    return f"u{number}@{DOMAIN}"


@pytest.fixture(scope="module", autouse=True)
def key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEJAX_KEY", "a secret of the shop's own")
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory, key):
    """A shop and a run of it."""
    place = tmp_path_factory.mktemp("joining")
    shop = write_shop(place / "shop")
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    orders["customer_id"] = [address(n).upper() if n in GUESTS else n for n in orders["customer_id"]]
    orders.to_csv(shop / "orders.csv", index=False)
    ids = pd.read_csv(shop / "customers.csv", dtype=str)["customer_id"]
    emails = ["" if n == "040" else address(n) for n in ids]
    customers = pd.DataFrame({"customer_id": ids.mask(ids.isin(GUESTS), ""), "email": emails})
    customers.to_csv(shop / "customers.csv", index=False)
    assert run("fit", shop, "--model", "ease", "--run", place / "run") == 0
    return place


def recommended(place, out, *options):
    assert run("recommend", place / "run", "--top", 3, "--out", out, *options) == 0
    frame = pd.read_parquet(out) if out.suffix == ".parquet" else pd.read_csv(out, dtype=str, keep_default_na=False)
    return frame, json.loads(out.with_name(f"{out.name}.manifest.json").read_text())


def test_addresses_are_in_the_named_file_and_nowhere_else(place, tmp_path, capsys):
    customers = place / "shop" / "customers.csv"
    frame, manifest = recommended(place, tmp_path / "lists.csv", "--join", customers, "--holdout", "10%")
    own = {f"{n:03d}": address(f"{n:03d}") for n in range(36)} | {"040": ""}
    own |= dict(zip(hashed(map(address, GUESTS), ""), map(address, GUESTS), strict=True))
    assert frame.columns.tolist()[-1] == "email"
    assert frame["email"].tolist() == [own[one] for one in frame["customer_id"]]
    assert manifest["join"] == {"without_address": int("040" in set(frame["customer_id"]))}
    assert manifest["customers"]["held_out"] == 4
    control = pd.read_csv(tmp_path / "lists.holdout.csv", dtype=str)
    assert "email" not in control and len(control) == 4 * 3
    said = "".join(capsys.readouterr())
    others = [path for folder in (tmp_path, place / "run") for path in folder.rglob("*") if path.is_file()]
    others.remove(tmp_path / "lists.csv")
    assert tmp_path / "lists.csv.manifest.json" in others and len(others) > 8
    tables = [pd.read_parquet(path).to_csv() for path in others if path.suffix == ".parquet"]
    for one in [said, *tables, *(path.read_bytes().decode("latin-1") for path in others)]:
        assert DOMAIN not in one.lower()


def test_one_row_a_customer_has_its_address_too(place, tmp_path):
    customers = place / "shop" / "customers.csv"
    frame, manifest = recommended(place, tmp_path / "lists.parquet", "--join", customers, "--wide")
    assert frame.columns.tolist() == [
        "customer_id",
        "sku_1",
        "title_1",
        "sku_2",
        "title_2",
        "sku_3",
        "title_3",
        "email",
    ]
    assert set(frame["email"]) == {"", *(address(f"{n:03d}") for n in range(40))}
    assert manifest["join"] == {"without_address": 1}


def test_an_address_that_is_a_formula_is_escaped(place, tmp_path):
    path = tmp_path / "own.csv"
    pd.DataFrame({"customer_id": ["001"], "email": [f"=1+1@{DOMAIN}"]}).to_csv(path, index=False)
    frame, _ = recommended(place, tmp_path / "lists.csv", "--join", path)
    assert set(frame["email"]) == {"", f"'=1+1@{DOMAIN}"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "name the file for them, a new one, with --out"),
        (["--out", "{shop}/customers.csv"], "name the file for them, a new one, with --out"),
        (["--out", "{run}/lists.csv"], "never stand in a run"),
        (["--out", "{run}/../run/more/lists.csv"], "never stand in a run"),
        (["--out", "{here}/lists.csv", "--join", "{shop}/products.csv"], "no column with e-mail addresses"),
        (["--out", "{here}/lists.csv", "--join", "{here}/none.csv"], "is no file"),
        (["--out", "{here}/lists.csv", "--join", "{here}/strangers.csv"], "an address of none of the 41 customers"),
    ],
)
def test_addresses_are_refused_elsewhere(place, tmp_path, capsys, options, says):
    (tmp_path / "strangers.csv").write_text(f"customer_id,email\nnobody,nobody@{DOMAIN}\n")
    places = {"shop": place / "shop", "run": place / "run", "here": tmp_path}
    before = (place / "shop" / "customers.csv").read_bytes()
    options = [option.format(**places) for option in options]
    joined = [] if "--join" in options else ["--join", place / "shop" / "customers.csv"]
    assert run("recommend", place / "run", "--top", 3, *joined, *options) == 1
    said = capsys.readouterr().err
    assert says in said and DOMAIN not in said
    assert not list(tmp_path.glob("*lists*")) and not list((place / "run").rglob("*lists*"))
    assert (place / "shop" / "customers.csv").read_bytes() == before


@pytest.mark.parametrize("suffix", [".csv", ".txt"])
def test_customers_may_be_given_by_their_addresses(place, tmp_path, suffix):
    wanted = tmp_path / f"wanted{suffix}"
    header = "customer_id\n" if suffix == ".csv" else ""
    guest = address("037")
    wanted.write_text(f"{header}{guest}\n {guest.upper()}\n{address('003')}\n004\n")
    frame, _ = recommended(place, tmp_path / "lists.csv", "--customers", wanted)
    by_hash, stranger = hashed([guest, address("003")], "")
    assert frame["customer_id"].unique().tolist() == [by_hash, stranger, "004"]
    assert frame.groupby("customer_id")["basis"].first()[[by_hash, stranger]].tolist() == ["model", "popular"]
    joined = ["--join", place / "shop" / "customers.csv"]
    frame, _ = recommended(place, tmp_path / "more.csv", "--customers", wanted, *joined)
    assert frame["customer_id"].unique().tolist() == [by_hash, "003", "004"] and set(frame["basis"]) == {"model"}


def test_baskets_may_be_of_addresses(place, tmp_path):
    whole, _ = recommended(place, tmp_path / "whole.csv")
    (own,) = hashed([address("037")], "")
    best = whole[whole["customer_id"] == own]["sku"].iloc[0]
    basket = tmp_path / "baskets.csv"
    basket.write_text(f"customer_id,sku\n{address('037')},{best}\n{address('037').upper()},{best}\n")
    frame, _ = recommended(place, tmp_path / "lists.csv", "--baskets", basket)
    assert set(frame["customer_id"]) == {own} and best not in set(frame["sku"])
    # What the run knows of the guest and the basket, together.
    assert set(frame["sku"]) > set(whole[whole["customer_id"] == own]["sku"]) - {best}


@pytest.mark.parametrize("option", ["--customers", "--baskets"])
def test_without_a_key_no_address_is_read(place, tmp_path, monkeypatch, capsys, option):
    monkeypatch.delenv("AEJAX_KEY")
    path = tmp_path / "given.csv"
    path.write_text(f"customer_id,sku\n{address('037')},001\n")
    assert run("recommend", place / "run", option, path, "--out", tmp_path / "lists.csv") == 1
    said = capsys.readouterr().err
    assert f"{option} given.csv" in said and "AEJAX_KEY is not set" in said and address("037") not in said
