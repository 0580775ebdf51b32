"""Columns of products and customers as features: what is recognised, what is not used and why, and the numbers."""

import dataclasses
import math
import uuid

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from aejax import experiment
from aejax.attributes import Attribute, decimals_of, encode, parse_numbers, recognise, report, summary_lines
from aejax.errors import InputError
from aejax.interactions import Dataset, Features, histories_of, reindex

TITLES = ["Red mug", "red plate", "Blue mug", "blue plate, large", "green mug", "", "mug red", "Café mug"]


def products(**columns):
    """Eight products p0 to p7 with a title each, and columns of text."""
    return pd.DataFrame({"sku": [f"p{number}" for number in range(8)], "title": TITLES, **columns}, dtype=str)


def found(given=(), **columns):
    return {one.column: one for one in recognise({"products": products(**columns)}, dict(given))["products"]}


def dense(attribute, table):
    features = encode([attribute], table, table["sku"])
    assert features.names == tuple((attribute.column, value) for value in attribute.values)
    return features.matrix.toarray()


def test_a_category_is_one_hot_and_what_is_empty_or_alone_is_no_feature():
    brand = ["a", "b", "a", "", "b", " a ", "alone", ""]
    one = found(brand=brand)["brand"]
    assert (one.kind, one.values) == ("category", ("a", "b"))
    expected = [[value.strip() == name for name in ("a", "b")] for value in brand]
    np.testing.assert_array_equal(dense(one, products(brand=brand)), expected)


def test_a_category_seen_only_when_scoring_is_no_feature():
    one = found(brand=["a", "b"] * 4)["brand"]
    later = pd.DataFrame({"sku": ["x", "y"], "brand": ["unheard of", "b"]}, dtype=str)
    np.testing.assert_array_equal(dense(one, later), [[0, 0], [0, 1]])
    assert not encode([one], later, ["z"]).matrix.nnz  # a product that the table lacks


def test_the_words_of_a_text_are_tf_idf():
    one = found()["title"]
    assert one.kind == "text" and one.values == ("blue", "mug", "plate", "red")
    assert "of 7 different words 4 are used" in one.note
    rows = [["red", "mug"], ["red", "plate"], ["blue", "mug"], ["blue", "plate"], ["mug"], [], ["mug", "red"], ["mug"]]
    idf = {word: math.log(8 / (1 + count)) + 1 for word, count in {"blue": 2, "mug": 5, "plate": 2, "red": 3}.items()}
    expected = np.array([[idf[word] * (word in row) for word in one.values] for row in rows])
    norm = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(dense(one, products()), expected / np.where(norm > 0, norm, 1), rtol=1e-6)


def test_fifty_thousand_words_are_fine_and_the_most_informative_are_kept():
    rng = np.random.default_rng(0)
    titles = [f"w{number} w{number + 1} {'often' if rng.random() < 0.5 else ''} item" for number in range(50_000)]
    table = pd.DataFrame({"sku": np.arange(50_000).astype(str), "title": titles}, dtype=str)
    (one,) = recognise({"products": table}, {})["products"]
    assert one.kind == "text" and len(one.values) == 2000 and "often" in one.values and "item" not in one.values
    assert encode([one], table, table["sku"]).matrix.shape == (50_000, 2000)


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["£1.50", "$2", "3 €", "USD 4.25", "5.00 kr"], [1.5, 2, 3, 4.25, 5]),
        (["$1,299.00", "2,000", "3"], [1299, 2000, 3]),
        (["1,5", "2,25", "1,299"], [1.5, 2.25, 1.299]),  # commas are decimal where they cannot be thousands
        (["1.299,50 €", "1.000.000"], [1299.5, 1_000_000]),
        (["1.299", "9,90", "12.500"], [1299, 9.9, 12500]),  # points separate thousands where commas are decimal
        (["1.299", "1,299", "0.5"], [1.299, 1299, 0.5]),
        (["0.999", "1,234"], [0.999, 1234]),
        (["-3", "+.5", "1'000", "2’000"], [-3, 0.5, 1000, 2000]),
        (
            ["US$ 5", "R$ 5,50", "Kč 6", "-US$7", "8 $CA", "9,- Kč", "Kč 10", "kr. 11", "Rp 1.000"],
            [5, 5.5, 6, -7, 8, 9, 10, 11, 1000],
        ),
        (["12.05.2024", "1.2.3", "1,2,3", "10.0.0.1", "5€50", "$", "A5", "x5$", "12.345.67"], []),
        (["22 LB", "n/a", "1-2", "5+", "nan", "inf", "1e5"], []),
    ],
)
def test_numbers_are_read_as_they_are_written(texts, numbers):
    read = parse_numbers(texts, decimals_of(texts).sign)
    assert list(read.values()) == numbers


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["500 €", "1.299 €", "2.450 €"], [500, 1299, 2450]),
        (["$500", "$1,299", "$2,450"], [500, 1299, 2450]),
        (["500", "1.299", "2.450 €"], [500, 1299, 2450]),  # one currency tells what all of them are
        (["500", "1.299", "2.450"], [500, 1.299, 2.45]),
        (["-500 €", "-1.299 €", "-2.450 €"], [-500, -1299, -2450]),
        (["500", "1,299", "2,450"], [500, 1299, 2450]),
        (["1.299", "1,299 €", "2.450"], [1299, 1.299, 2450]),  # some of them are decimal: most are not
        (["1,5 €", "2.5 €", "1.299 €"], [1.5, 2.5, 1299]),  # as many say the one as the other
    ],
)
def test_what_could_be_thousands_or_decimals_is_read_by_the_currency_and_warned_of(texts, numbers):
    assert list(parse_numbers(texts, decimals_of(texts).sign).values()) == numbers
    column = (texts * 3)[:8]
    one = found(given={"size": "number"}, size=column)["size"]
    doubtful = next(text for text in texts if "299" in text)
    read = numbers[texts.index(doubtful)]
    how = "thousands" if abs(read) > 999 else "decimals"
    assert one.kind == "number" and one.is_warning
    assert f'"{doubtful}" has thousands or decimals; it is read as {read:g}, with {how}' in one.note
    (line,) = [line for line in summary_lines(report({"products": [one]})) if "size:" in line]
    assert line.startswith("Warning: products.csv: size: nothing in it tells")
    # Other rows are read as these were.
    table = products(size=column)
    whole = dense(one, table)
    for row in range(8):
        alone = encode([one], table.iloc[[row]], [f"p{row}"]).matrix.toarray()
        np.testing.assert_array_equal(alone, whole[[row]])


@pytest.mark.parametrize(
    "texts",
    [
        ["1.299 €", "2.450 €", "9,90 €"],
        ["1.299", "2.450", "1.5"],
        ["$1,299", "$2,450", "$3.99"],
        ["1.299 €", "1.000.000 €"],
        ["0.999", "1.299"],
        ["1 299 €", "500 €", "2'450 €"],
    ],
)
def test_what_another_cell_tells_is_not_warned_of(texts):
    assert decimals_of(texts).doubtful == ""
    assert not found(given={"size": "number"}, size=(texts * 4)[:8])["size"].note


def test_whole_prices_of_which_each_differs_are_no_ids():
    price = [f"{number}.{number}00 €" for number in range(1, 9)]
    assert found(price=price)["price"].values[0] == "below 2200"
    assert found(price=[f"{1000 + number}" for number in range(8)])["price"].kind == "none"


@pytest.mark.parametrize("decimal", [".", ","])
def test_how_a_number_is_read_does_not_depend_on_which_rows_are_encoded(decimal):
    """1,299 alone could be either."""
    thousands = "." if decimal == "," else ","
    price = [f"{number}{decimal}5" for number in range(6)] + [f"1{thousands}299", f"2{decimal}250"]
    table = products(price=price)
    one = found(given={"price": "number"}, price=price)["price"]
    whole = dense(one, table)
    assert one.edges[-1] == 5.5 and whole[6].argmax() == whole.shape[1] - 1 != whole[7].argmax()
    for row in range(8):
        alone = encode([one], table, [f"p{row}"]).matrix.toarray()
        np.testing.assert_array_equal(alone, whole[[row]])
        np.testing.assert_array_equal(dense(one, table.iloc[[row]]), whole[[row]])


def test_a_price_becomes_bands_of_about_equally_many_products():
    price = [f"£{number + 0.5}" for number in range(7)] + ["on request"]
    one = found(given={"price": "number"}, price=price)["price"]
    assert one.kind == "number" and one.is_warning
    assert one.note == '1 of its cells are no number, such as "on request", and no feature'
    bands = dense(one, products(price=price))
    np.testing.assert_array_equal(bands[:7].sum(1), 1)
    assert not bands[7].any() and bands.sum(0).max() == 2  # the last band, of two
    assert one.values[0] == "below 1.5" and one.values[-1] == "5.5 or more"
    # A number beyond all that were seen is in the band at the end.
    beyond = products(price=["-3", "1000", *[""] * 6])
    np.testing.assert_array_equal(dense(one, beyond)[:2].argmax(1), [0, len(one.values) - 1])


@pytest.mark.parametrize(
    ("column", "cells", "kind"),
    [
        ("price", ["1.5", "2", "2", "3", "4", "5", "6", "7.5"], "number"),
        ("year", ["2001", "2002", "2001", "2003", "2002", "2001", "2004", "2004"], "number"),
        ("maker_id", ["2", "2", "3", "3", "2", "3", "2", "2"], "category"),
        ("size", ["1", "2", "3", "4", "5+", "5+", "1", "2"], "category"),
        ("notes", ["very nice", "so soft", "old but good", "in a box", "a gift", "a toy", "as new", "as is"], "text"),
        ("barcode", [str(4_000_000 + number) for number in range(8)], "none"),
        ("internal_id", [str(number) for number in range(8)], "none"),
        ("slug", [f"s{number}" for number in range(8)], "none"),
        ("ean", [f"AB-12-{number}" for number in range(8)], "none"),
        ("guid", [str(uuid.UUID(int=3**75 + number * 5**50)) for number in range(8)], "none"),
        ("iban", [f"DE89 3704 {number}" for number in range(8)], "none"),
        ("pack", [f"{number} {'boxes' if number % 2 else 'bags'} of {number}" for number in range(8)], "text"),
        ("path", [f"home/{'mug' if number % 2 else 'plate'}/{'abcdefgh'[number]}" for number in range(8)], "text"),
        ("empty", [""] * 8, "none"),
        ("shop", ["here"] * 8, "none"),
        ("sale", ["yes", *[""] * 6, "yes"], "category"),
    ],
)  # fmt: skip
def test_the_kind_of_a_column_is_recognised(column, cells, kind):
    one = found(**{column: cells})[column]
    assert one.kind == kind
    assert bool(one.values) == (kind != "none")
    assert one.note or one.values
    assert one.is_warning == (column in ("barcode", "internal_id", "slug", "ean", "guid", "iban"))


def test_an_id_in_disguise_is_warned_of_and_not_used():
    one = found(barcode=[f"AX{number}" for number in range(8)])["barcode"]
    (line,) = [line for line in summary_lines(report({"products": [one]})) if "barcode" in line]
    assert line.startswith("Warning: products.csv: barcode is not used: it differs in nearly every row, as an id does")


def test_a_title_that_only_repeats_the_sku_is_none():
    table = pd.DataFrame({"sku": ["a", "b"], "title": ["a", "b"]}, dtype=str)
    assert recognise({"products": table}, {}) == {"products": ()}


def test_a_kind_can_be_given_and_holds():
    year = ["2001", "2002", "2001", "2003", "2002", "2001", "2004", "2004"]
    assert found(given={"year": "category"}, year=year)["year"].values == ("2001", "2002", "2004")
    assert found(given={"products.title": "none"})["title"].kind == "none"
    assert found(given={"title": "category"})["title"].note == "no two rows share a value"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"titel": "text"}, 'titel=text: no such column; did you mean "title"'),
        ({"title": "words"}, "title=words: no such kind; .*category, none, number, text"),
        ({"title": "number"}, 'title=number: products.csv holds no number there, but "Red mug"'),
    ],
)
def test_kinds_that_cannot_be_are_refused(given, says):
    with pytest.raises(InputError, match=says):
        found(given=given)


def test_what_is_used_and_what_is_not_is_said():
    lines = summary_lines(
        report({"products": [*found(brand=["a", "b"] * 4, shop=["x"] * 8).values()], "customers": []})
    )
    assert lines == [
        "Found attributes of products, 6 features: title as text (4), brand as category (2).",
        "products.csv: title: of 7 different words 4 are used.",
        "products.csv: shop is not used: it is the same in every row.",
    ]


def test_features_follow_their_products_and_customers(tiny_lines):
    items = Features(sp.csr_array(np.arange(1, 31, dtype=np.float32)[:, None]), (("n", "item"),))
    users = Features(sp.csr_array(np.arange(1, 61, dtype=np.float32)[:, None]), (("n", "user"),))
    lines = dataclasses.replace(tiny_lines, item_features=items, user_features=users)
    some_users, some_items = np.array([3, 20, 41]), np.array([0, 5, 29])
    small = reindex(lines, some_users, some_items)
    assert small.item_features.matrix.toarray().ravel().tolist() == [1, 6, 30]
    assert small.user_features.matrix.toarray().ravel().tolist() == [4, 21, 42]
    histories = histories_of(lines, some_users)
    assert histories.take(1, 3).lines.user_features.matrix.toarray().ravel().tolist() == [21, 42]
    assert histories.take(1, 3).lines.item_features is items


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([f"RM{number}" for number in range(100, 140)], "none"),
        ([f"AB{number}" for number in range(100, 140)], "none"),
        ([*(str(number) for number in range(100, 139)), "5 €"], "none"),  # one cell makes no column of prices
        ([f"RM {number}" for number in range(100, 140)], "number"),
        ([f"{number} €" for number in range(100, 140)], "number"),
        ([f"RM{number}.50" for number in range(100, 140)], "number"),
    ],
    ids=["codes that a currency has", "codes", "one price", "a code apart", "signs", "decimals"],
)
def test_what_differs_in_every_row_is_an_id_unless_it_is_a_price(cells, kind):
    table = pd.DataFrame({"sku": [f"p{row}" for row in range(len(cells))], "shelf": cells})
    (found,) = recognise({"products": table}, {})["products"]
    assert found.kind == kind
    assert found.is_warning == (kind == "none")


def test_a_number_that_no_float_holds_is_no_number():
    assert parse_numbers(["9" * 400, "12"], ".") == {"12": 12.0}


def test_what_a_run_recognised_stands_unless_other_kinds_are_asked_for(tiny_lines):
    table = products(color=["red", "red", "blue", "blue"] * 2)
    stored = {"products": [{"column": "color", "kind": "category", "values": ["green"]}], "customers": []}
    customers = pd.DataFrame({"customer_id": ["1", "2"]}, dtype=str)
    dataset = Dataset("shop", tiny_lines, customers, table, {}, (), None, stored)
    for given in ({}, {"products.color": "category"}):
        assert experiment.recognise(dataset, given)["products"] == (Attribute("color", "category", values=("green",)),)
    (anew,) = (one for one in experiment.recognise(dataset, {"color": "none"})["products"] if one.column == "color")
    assert anew.kind == "none"
    with pytest.raises(InputError, match="nosuch"):
        experiment.recognise(dataset, {"nosuch": "text"})
    for damaged in ([], {"products": []}, {**stored, "products": 3}, {**stored, "products": [{"colour": "red"}]}):
        with pytest.raises(InputError, match=r"attributes.json of the run is damaged: .*; fit it again"):
            experiment.recognise(dataclasses.replace(dataset, attributes=damaged), {})
