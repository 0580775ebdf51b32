from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aejax.errors import InputError
from aejax.interactions import net_returns
from aejax.tables import addresses, values
from aejax.tables.shop import read_shop

CUSTOMERS = "customer_id,city\na,Bern\nb,Wien\n"
PRODUCTS = "sku,title\np,Pear\nq,Quince\n"
ORDERS = (
    "order_id,customer_id,created_at,lineitem_sku,lineitem_quantity\n"
    "1,a,2024-05-01T09:00:00,p,1\n"
    "1,a,2024-05-01T09:00:00,q,2\n"
    "2,b,2024-05-02T09:00:00,q,3\n"
)


def shop(folder: Path, *, orders: str | bytes = ORDERS, customers=CUSTOMERS, products=PRODUCTS) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in (("orders", orders), ("customers", customers), ("products", products)):
        (folder / f"{name}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def orders_of(rows, header=("order_id", "customer_id", "created_at", "lineitem_sku", "lineitem_quantity")) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    return out.getvalue()


def as_rows(dataset) -> list[tuple]:
    """(customer, product, quantity, moment) of each line, in the order of the lines."""
    lines = dataset.interactions
    at = [None] * len(lines) if lines.at is None else lines.at.astype(str).tolist()
    ids = (lines.users.ids[lines.user], lines.items.ids[lines.item], lines.quantity.tolist())
    return list(zip(*ids, at, strict=True))


def message(folder: Path) -> str:
    with pytest.raises(InputError) as problem:
        read_shop(folder)
    return str(problem.value)


def test_a_shop_is_read_as_it_stands(tmp_path):
    dataset = read_shop(shop(tmp_path))
    assert as_rows(dataset) == [
        ("a", "p", 1, "2024-05-01T09:00:00"),
        ("a", "q", 2, "2024-05-01T09:00:00"),
        ("b", "q", 3, "2024-05-02T09:00:00"),
    ]
    lines = dataset.interactions
    assert lines.order is not None and lines.at is not None
    assert lines.order[0] == lines.order[1] != lines.order[2]
    dtypes = [str(array.dtype) for array in (lines.user, lines.item, lines.quantity, lines.order, lines.at)]
    assert dtypes == ["int32"] * 4 + ["datetime64[s]"]
    assert dataset.customers.to_dict("list") == {"customer_id": ["a", "b"], "city": ["Bern", "Wien"]}
    assert dataset.products.to_dict("list") == {"sku": ["p", "q"], "title": ["Pear", "Quince"]}
    assert [path.name for path in dataset.files] == ["customers.csv", "orders.csv", "products.csv"]
    assert dataset.format == "shop"


ids = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=5).filter(
    lambda text: text == text.strip() and "\ufeff" not in text and not addresses.is_address(text)
)


@given(st.lists(st.tuples(ids, ids, st.integers(1, 9)), min_size=2, max_size=12))
def test_ids_come_back_as_they_were_written(tmp_path_factory, rows):
    rows = [*rows, ("007", "1e5", 1), ("7", "10.0", 1)]
    folder = tmp_path_factory.mktemp("ids")
    orders = orders_of([(n, *row) for n, row in enumerate(rows)], ("order_id", "customer_id", *LINE))
    dataset = read_shop(shop(folder, orders=orders, customers="customer_id\nx\n", products="sku\ny\n"))
    assert [row[:3] for row in as_rows(dataset)] == rows
    assert dataset.customers["customer_id"].tolist() == sorted({"x", *(row[0] for row in rows)})
    assert dataset.products["sku"].tolist() == sorted({"y", *(row[1] for row in rows)})
    assert dataset.products["title"].tolist() == dataset.products["sku"].tolist()


LINE = ("lineitem_sku", "lineitem_quantity")

order_rows = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "3", ""]),
        st.sampled_from(["a", "b", ""]),
        st.integers(1, 3).map(lambda day: f"2024-05-0{day}"),
        st.sampled_from(["p", "q", ""]),
        st.integers(-2, 4),
    ),
    max_size=25,
)
# So that there always is something to learn from, and no return of it.
SOLID = [("8", "y", "2024-05-09", "s", 1), ("9", "z", "2024-05-09", "t", 1)]


@given(order_rows)
def test_every_row_is_accounted_for(tmp_path_factory, rows):
    dataset = read_shop(shop(tmp_path_factory.mktemp("account"), orders=orders_of([*rows, *SOLID])))
    for account in dataset.quality["files"].values():
        dropped = sum(reason["rows"] for reason in account["dropped"].values())
        assert account["read"] == account["kept"] + account["merged"] + account["netted"] + dropped
    orders = dataset.quality["files"]["orders.csv"]
    assert orders["read"] == len(rows) + 2
    assert orders["kept"] == len(net_returns(dataset.interactions)) == dataset.quality["facts"]["lines"]
    blank = Counter(
        "no customer" if not customer else "no product" if not sku else "quantity is zero"
        for _, customer, _, sku, quantity in rows
        if not customer or not sku or quantity == 0
    )
    reasons = {name: reason["rows"] for name, reason in orders["dropped"].items()}
    reasons.pop("return without an earlier purchase", None)
    assert reasons == dict(blank)


@given(order_rows)
def test_net_quantities_equal_the_notebooks_pivot(tmp_path_factory, rows):
    """Returns that exceed no purchase: what remains is groupby(customer, sku).sum(), entry by entry."""
    # A purchase of 99 on the first day of every pair leaves no return without something to cancel.
    pairs = sorted({(row[1], row[3]) for row in rows if row[1] and row[3]})
    first = [(f"first-{n}", customer, "2024-01-01", sku, 99) for n, (customer, sku) in enumerate(pairs)]
    rows = [*first, *rows, *SOLID]
    dataset = read_shop(shop(tmp_path_factory.mktemp("pivot"), orders=orders_of(rows)))
    bought = net_returns(dataset.interactions)
    found = Counter()
    for user, item, quantity in zip(bought.user, bought.item, bought.quantity, strict=True):
        found[bought.users.ids[user], bought.items.ids[item]] += int(quantity)
    table = pd.DataFrame([row for row in rows if row[1] and row[3]], columns=["order", "customer", "at", "sku", "n"])
    assert found == table.groupby(["customer", "sku"])["n"].sum().to_dict()
    assert not any("returned beyond" in warning for warning in dataset.quality["warnings"])


@given(order_rows)
def test_lines_of_one_order_customer_and_sku_are_summed(tmp_path_factory, rows):
    rows = [*rows, *SOLID]
    dataset = read_shop(shop(tmp_path_factory.mktemp("sums"), orders=orders_of(rows)))
    expected = Counter()
    dates: dict[tuple, str] = {}
    for n, (order, customer, at, sku, quantity) in enumerate(rows):
        if customer and sku and quantity:
            key = (order or f"own {n}", customer)
            dates[key] = min(at, dates.get(key, at))
            expected[(*key, sku)] += quantity
    lines = Counter(
        (customer, sku, n, f"{dates[order, customer]}T00:00:00") for (order, customer, sku), n in expected.items() if n
    )
    assert Counter(as_rows(dataset)) == lines
    # Lines share an order number exactly where they share order id and customer.
    numbers = np.unique(dataset.interactions.order)
    assert len(numbers) == len({key[:2] for key, n in expected.items() if n})


PRICED = ("order_id", "customer_id", *LINE, "lineitem_price")


def test_the_price_of_summed_lines_is_the_mean_of_their_units(tmp_path):
    rows = [
        ("1", "a", "p", 1, "2.00"),
        ("1", "a", "p", 3, "4.00"),
        ("1", "a", "q", 2, ""),
        ("1", "a", "q", 2, "9"),
        ("2", "b", "q", 1, ""),
        ("3", "b", "p", -1, "5"),
        ("3", "b", "q", 1, "7"),
        ("3", "b", "q", -1, "7"),
    ]
    lines = read_shop(shop(tmp_path, orders=orders_of(rows, PRICED))).interactions
    assert lines.quantity.tolist() == [4, 4, 1, -1]
    assert lines.price is not None and lines.price.dtype == np.float32
    np.testing.assert_array_equal(lines.price, [3.5, 9, np.nan, 5])
    np.testing.assert_array_equal(net_returns(lines).price, [3.5, 9, np.nan])


def test_prices_are_numbers_or_none(tmp_path):
    rows = [("1", "a", "p", 1, ""), ("2", "b", "q", 1, "")]
    assert read_shop(shop(tmp_path, orders=orders_of(rows, PRICED))).interactions.price is None
    rows[1] = ("2", "b", "q", 1, "$3")
    text = message(shop(tmp_path, orders=orders_of(rows, PRICED)))
    assert text == 'orders.csv:3: lineitem_price is "$3"; expected a number without currency, such as 4.50'


def test_without_order_ids_a_customers_lines_of_one_moment_are_an_order(tmp_path):
    header = ("customer_id", "created_at", *LINE)
    rows = [("a", "2024-05-01", "p", 1), ("b", "2024-05-01", "p", 2), ("a", "2024-05-01T00:00", "p", 3)]
    dataset = read_shop(shop(tmp_path, orders=orders_of([*rows, ("a", "2024-05-02", "q", 4)], header)))
    assert [row[:3] for row in as_rows(dataset)] == [("a", "p", 4), ("b", "p", 2), ("a", "q", 4)]
    assert len(set(dataset.interactions.order.tolist())) == 3
    assert dataset.quality["files"]["orders.csv"]["merged"] == 1


@pytest.mark.parametrize("blank", [False, True])
def test_without_order_ids_and_dates_nothing_is_summed(tmp_path, blank):
    """A column that is blank on every line is no column."""
    rows = [("a", "p", 1), ("a", "p", 2), ("b", "q", 3)]
    header = ("customer_id", *LINE, *(("order_id", "created_at") if blank else ()))
    dataset = read_shop(shop(tmp_path, orders=orders_of([row + ("", "") * blank for row in rows], header)))
    assert dataset.interactions.order is None and dataset.interactions.at is None
    assert as_rows(dataset) == [(*row, None) for row in rows]
    impossible = dataset.quality["protocols"]["impossible"]
    assert impossible["time"] == "there are no order dates" and "no orders" in impossible["last-order"]


def test_a_blank_date_takes_the_order_s_and_a_line_without_any_is_dropped(tmp_path):
    rows = [
        ("1", "a", "", "p", 1),
        ("1", "a", "2024-05-01", "q", 1),
        ("2", "b", "", "p", 1),
        ("3", "b", "2024-05-02", "q", 1),
    ]
    dataset = read_shop(shop(tmp_path, orders=orders_of(rows)))
    assert as_rows(dataset) == [
        ("a", "p", 1, "2024-05-01T00:00:00"),
        ("a", "q", 1, "2024-05-01T00:00:00"),
        ("b", "q", 1, "2024-05-02T00:00:00"),
    ]
    assert dataset.quality["files"]["orders.csv"]["dropped"] == {"no date": {"rows": 1, "lines": [4]}}


@pytest.mark.parametrize(
    ("written", "utc"),
    [
        ("2024-05-01", "2024-05-01T00:00:00"),
        ("2024-05-01 09:58:12 +0000", "2024-05-01T09:58:12"),
        ("2024-05-01 09:58:12 +0200", "2024-05-01T07:58:12"),
        ("2024-05-01T09:58:12-05:30", "2024-05-01T15:28:12"),
        ("2024-05-01T09:58:12Z", "2024-05-01T09:58:12"),
        ("2024-05-01 09:58:12 UTC", "2024-05-01T09:58:12"),
        ("2024-05-01T09:58", "2024-05-01T09:58:00"),
        ("2024-05-01T09:58:12.345", "2024-05-01T09:58:12"),
    ],
)
def test_dates_are_converted_to_utc(tmp_path, written, utc):
    dataset = read_shop(shop(tmp_path, orders=ORDERS.replace("2024-05-02T09:00:00", written)))
    assert as_rows(dataset)[-1] == ("b", "q", 3, utc)


@pytest.mark.parametrize(
    "written", ["01/05/2024", "2024-13-01", "2024-02-30", "yesterday", "1714557492", "2024", "45413"]
)
def test_other_dates_are_refused(tmp_path, written):
    text = message(shop(tmp_path, orders=ORDERS.replace("2024-05-02T09:00:00", written)))
    assert text.startswith(f'orders.csv:4: created_at is "{written}"; expected an ISO date such as 2024-05-01')


@pytest.mark.parametrize("written", ["2", "2.0", "+2", " 2 ", "2e0"])
def test_whole_quantities_are_accepted(tmp_path, written):
    dataset = read_shop(shop(tmp_path, orders=ORDERS.replace("q,3\n", f"q,{written}\n")))
    assert as_rows(dataset)[-1][2] == 2


@pytest.mark.parametrize("written", ["two", "NaN", "2.5", "1000001", "-1000001", "1e9", "inf", "1,5"])
def test_other_quantities_are_refused_by_line_and_value(tmp_path, written):
    text = message(shop(tmp_path, orders=ORDERS.replace("q,3\n", f'q,"{written}"\n')))
    assert text.startswith(f'orders.csv:4: lineitem_quantity is "{written}"; expected a whole number')


def test_a_blank_quantity_is_refused(tmp_path):
    assert message(shop(tmp_path, orders=ORDERS.replace("q,3\n", "q,\n"))).startswith(
        "orders.csv:4: lineitem_quantity is blank; expected a whole number"
    )


def test_a_sum_beyond_what_a_matrix_holds_is_refused(tmp_path):
    text = message(shop(tmp_path, orders=ORDERS + "2,b,2024-05-02T09:00:00,q,1000000\n" * 2148))
    assert '"q" add up to 2,148,000,003 units' in text


def test_lines_are_physical_lines(tmp_path):
    """With cells over several lines, blank lines, and both line ends."""
    orders = (
        "order_id,note,customer_id,lineitem_sku,lineitem_quantity\r\n"  # 1
        '1,"left at\nthe door\n",a,p,1\r\n'  # 2 to 4
        "\r\n"  # 5
        "2,,,p,1\r\n"  # 6: no customer
        "3,,b,q,1\n"  # 7
        '4,"\n",a,,1\n'  # 8 to 9: no product
        "\n\n"
        "5,,a,q,0\n"  # 12: zero
    )
    dropped = read_shop(shop(tmp_path, orders=orders)).quality["files"]["orders.csv"]["dropped"]
    assert {reason: rows["lines"] for reason, rows in dropped.items()} == {
        "no customer": [6],
        "no product": [8],
        "quantity is zero": [12],
    }
    assert message(shop(tmp_path, orders=orders + "6,,a,q,two\n")).startswith("orders.csv:13: lineitem_quantity")


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "x", "x\ny", "\n\n"]), st.booleans(), st.booleans()), min_size=1, max_size=8
    )
)
def test_the_reported_line_is_where_the_bad_cell_starts(tmp_path_factory, rows):
    """Whatever stands before it: the line is found by counting the line ends of what was written."""
    content = "note,customer_id,lineitem_sku,lineitem_quantity\n"
    for note, quoted, blank_line_after in rows:
        content += (f'"{note}"' if quoted or "\n" in note else note) + ",a,p,1\n" + "\n" * blank_line_after
    line = content.count("\n") + 1
    folder = shop(tmp_path_factory.mktemp("lines"), orders=content + "x,b,q,two\nx,b,q,three\n")
    assert message(folder).startswith(f'orders.csv:{line}: lineitem_quantity is "two"')


@pytest.mark.parametrize("note", ["", '"see\nbelow"'])
def test_only_the_first_lines_of_a_reason_are_listed(tmp_path, note):
    rows = f"{note},,p,1\n" * 8
    orders = f"note,customer_id,lineitem_sku,lineitem_quantity\n,a,p,1\n,b,q,1\n{rows}"
    dropped = read_shop(shop(tmp_path, orders=orders)).quality["files"]["orders.csv"]["dropped"]
    height = 2 if note else 1
    assert dropped == {"no customer": {"rows": 8, "lines": [4 + height * n for n in range(5)]}}


def test_a_short_or_long_row_is_refused_by_its_line(tmp_path):
    assert message(shop(tmp_path, orders=ORDERS + "\n3,a\n")).startswith(
        "orders.csv:6: expected 5 cells as in the header, got 2"
    )
    products = PRODUCTS + 'r,"a\nb"\ns,Salt, fine\n'
    assert message(shop(tmp_path, products=products)).startswith(
        "products.csv:6: expected 2 cells as in the header, got 3"
    )


def test_a_quote_that_is_not_closed_is_refused_and_swallows_nothing(tmp_path):
    text = message(shop(tmp_path, products='sku,title\np,Pear\nq,"Quince\nr,Rice\n'))
    assert text.startswith("products.csv:3: a quote")
    inches = shop(tmp_path, products='sku,title\np,Pipe 5"\nq,Quince\n')
    assert read_shop(inches).products["title"].tolist() == ['Pipe 5"', "Quince"]


@pytest.mark.parametrize(
    ("content", "line", "byte"),
    [
        (b"sku,title\np,Pear\nq,Coing fran\x81ais\n", 3, 13),  # 0x81 is no letter of Windows-1252 either
        (b"\x8dsku,title\n", 1, 1),
    ],
)
def test_not_utf8_names_line_and_byte(tmp_path, content, line, byte):
    text = message(shop(tmp_path, products=content))
    assert text.startswith(f"products.csv:{line}: byte {byte} of the line (0x") and "save the file as UTF-8" in text


@pytest.mark.parametrize("name", ["customers", "orders", "products"])
def test_empty_files_and_bare_headers_are_refused(tmp_path, name):
    header = {"customers": CUSTOMERS, "orders": ORDERS, "products": PRODUCTS}[name].split("\n")[0]
    assert message(shop(tmp_path, **{name: ""})) == f"{name}.csv is empty (0 bytes); export it again"
    assert message(shop(tmp_path, **{name: "\n\n"})).startswith(f"{name}.csv is empty: it has no header")
    for end in ("", "\n", "\r\n\r\n"):
        assert (
            message(shop(tmp_path, **{name: header + end})) == f"{name}.csv has a header but no rows; export it again"
        )


def test_a_missing_file_is_named_with_the_likeliest(tmp_path):
    shop(tmp_path)
    (tmp_path / "orders.csv").rename(tmp_path / "order.csv")
    assert message(tmp_path) == (
        f"{tmp_path} has no orders.csv (there are: customers.csv, order.csv, products.csv); "
        'if "order.csv" is that file, rename it, or say which files there are: --columns orders.file=...; '
        "aejax check DATA proposes a mapping for --columns"
    )
    assert "is not a folder" in message(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("header", "missing", "likely"),
    [
        ("email,lineitem_sku,lineitem_quantity", "customer_id", "email"),
        ("customer_id,sku,lineitem_quantity", "lineitem_sku", "sku"),
        ("customer_id,lineitem_sku,quantity", "lineitem_quantity", "quantity"),
        ("costumer_id,lineitem_sku,lineitem_quantity", "customer_id", "costumer_id"),
    ],
)
def test_a_missing_column_is_named_with_the_likeliest(tmp_path, header, missing, likely):
    text = message(shop(tmp_path, orders=f"{header}\na,p,1\n"))
    there = header.replace(",", ", ")
    assert text == (
        f'orders.csv has no column "{missing}" (there are: {there}); '
        f'if "{likely}" is that column, rename it to "{missing}", or map it: --columns orders.NAME=COLUMN; '
        "aejax check DATA proposes a mapping for --columns"
    )


def test_column_names_are_normalised_and_unneeded_columns_left_out_visibly(tmp_path):
    header = "\ufeff Order ID,Customer_ID,Created at,Lineitem SKU,Lineitem quantity,Lineitem price,\n"
    orders = header + "".join(f"{line},9.99,\n" for line in ORDERS.splitlines()[1:])
    dataset = read_shop(shop(tmp_path, orders=orders))
    assert as_rows(dataset) == as_rows(read_shop(shop(tmp_path / "plain")))
    account = dataset.quality["files"]["orders.csv"]
    assert account["columns_left_out"] == ["column_7"]
    assert account["columns_renamed"]["\ufeff Order ID"] == "order_id"
    assert account["columns_renamed"]["Created at"] == "created_at"


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, quote):
    customers = f"\ufeff{quote}customer_id{quote},city\na,Bern\n"
    dataset = read_shop(shop(tmp_path, customers=customers))
    assert dataset.customers.to_dict("list") == {"customer_id": ["a", "b"], "city": ["Bern", ""]}
    assert dataset.quality["files"]["customers.csv"]["columns_renamed"] == {"\ufeffcustomer_id": "customer_id"}


def test_two_columns_of_one_name_are_refused(tmp_path):
    text = message(shop(tmp_path, products="sku,title,Title \np,Pear,Pear\n"))
    assert text == 'products.csv: two columns go by the name "title" ("title", "Title "); remove or rename one of them'


@pytest.mark.parametrize(("name", "column"), [("products", "sku"), ("customers", "customer_id")])
def test_an_id_that_stands_twice_is_refused_with_both_lines(tmp_path, name, column, monkeypatch):
    monkeypatch.setenv("AEJAX_KEY", "a secret of sixteen")
    text = message(shop(tmp_path, **{name: f'{column},note\nx,"two\nlines"\nb@shop.org,\ny,\n b@shop.org ,\nx,\n'}))
    # x stands first, in lines 2 and 7
    assert text == f'{name}.csv:7: {column} "x" stands in line 2 already; keep one of them'
    text = message(shop(tmp_path, **{name: f"{column},note\nx,\nb@shop.org,\ny,\n b@shop.org ,\n"}))
    one = "h-[0-9a-f]{16}" if name == "customers" else "b...@..."
    assert re.fullmatch(f'{name}.csv:5: {column} "{one}" stands in line 3 already; keep one of them', text)


def test_rows_without_an_id_are_dropped_from_the_tables(tmp_path):
    dataset = read_shop(shop(tmp_path, customers=CUSTOMERS + ",Graz\n ,Linz\n", products=PRODUCTS + "\n,Nothing\n"))
    assert dataset.customers["customer_id"].tolist() == ["a", "b"]
    accounts = dataset.quality["files"]
    assert accounts["customers.csv"]["dropped"] == {"no customer": {"rows": 2, "lines": [4, 5]}}
    assert accounts["products.csv"]["dropped"] == {"no product": {"rows": 1, "lines": [5]}}
    assert (accounts["products.csv"]["read"], accounts["products.csv"]["kept"]) == (3, 2)


def test_unknown_customers_and_products_stay_and_are_reported(tmp_path):
    orders = ORDERS + "3,zoe,2024-05-03,new,1\n"
    dataset = read_shop(shop(tmp_path, orders=orders))
    assert as_rows(dataset)[-1][:2] == ("zoe", "new")
    assert dataset.customers.to_dict("list") == {
        "customer_id": ["a", "b", "zoe"],
        "city": ["Bern", "Wien", ""],
    }
    assert dataset.products["title"].tolist() == ["new", "Pear", "Quince"]
    assert dataset.quality["warnings"] == [
        '1 customer of orders.csv not in customers.csv: "zoe"; kept, without attributes',
        '1 product of orders.csv not in products.csv: "new"; kept, without attributes',
    ]


def test_customers_without_orders_stay_in_the_table_only(tmp_path):
    dataset = read_shop(shop(tmp_path, customers=CUSTOMERS + "idle,Graz\n", products=PRODUCTS + "unsold,\n"))
    assert dataset.interactions.users.ids.tolist() == ["a", "b"]
    assert dataset.interactions.items.ids.tolist() == ["p", "q"]
    assert dataset.customers["customer_id"].tolist() == ["a", "b", "idle"]
    assert dataset.products.to_dict("list") == {"sku": ["p", "q", "unsold"], "title": ["Pear", "Quince", "unsold"]}


def test_an_order_id_of_two_customers_is_two_orders(tmp_path):
    rows = [("1", "a", "2024-05-01", "p", 1), ("1", "b", "2024-05-02", "p", 2), ("1", "b", "2024-05-02", "q", 2)]
    dataset = read_shop(shop(tmp_path, orders=orders_of(rows)))
    assert as_rows(dataset) == [(row[1], row[3], row[4], f"{row[2]}T00:00:00") for row in rows]
    order = dataset.interactions.order
    assert order[1] == order[2] != order[0]
    assert dataset.quality["warnings"] == ["1 order id with several customers; each customer's part counts as an order"]


def test_the_earliest_date_of_an_order_counts(tmp_path):
    rows = [("1", "a", "2024-05-03", "p", 1), ("1", "a", "2024-05-01", "q", 1), ("2", "b", "2024-05-02", "q", 1)]
    dataset = read_shop(shop(tmp_path, orders=orders_of(rows)))
    assert {row[3] for row in as_rows(dataset)[:2]} == {"2024-05-01T00:00:00"}
    assert dataset.quality["warnings"] == ["1 order with several dates in created_at; the earliest counts"]


def test_one_customer_or_one_product_is_nothing_to_learn_from(tmp_path):
    text = message(shop(tmp_path, orders=orders_of([("1", "ann", "2024-05-01", sku, 1) for sku in "pq"])))
    assert 'only one customer, "ann"' in text and "nothing to learn from" in text
    text = message(shop(tmp_path, orders=orders_of([("1", customer, "2024-05-01", "p", 1) for customer in "ab"])))
    assert 'only one product, "p"' in text


def test_everything_dropped_says_by_which_rule(tmp_path):
    rows = [("1", "", "2024-05-01", "p", 1), ("2", "a", "2024-05-01", "p", 0), ("3", "b", "2024-05-01", "q", 0)]
    text = message(shop(tmp_path, orders=orders_of(rows)))
    assert 'every row was dropped (1 row: "no customer", 2 rows: "quantity is zero")' in text
    rows = [("1", "a", "2024-05-01", "p", 1), ("1", "a", "2024-05-01", "p", -1)]
    assert "cancel each other" in message(shop(tmp_path, orders=orders_of(rows)))
    rows = [("1", "a", "2024-05-01", "p", -1), ("2", "b", "2024-05-01", "q", -1)]
    assert "only returns and the purchases they cancel" in message(shop(tmp_path, orders=orders_of(rows)))


def test_a_file_larger_than_a_block_is_read_whole(tmp_path):
    """Several blocks have dictionaries of their own, which must become one."""
    rng = np.random.default_rng(0)
    rows = [
        (n, f"c{rng.integers(900)}", f"2024-05-01T{n % 24:02d}:00:00", f"sku-{rng.integers(5000)}", 1)
        for n in range(150_000)
    ]
    dataset = read_shop(shop(tmp_path, orders=orders_of(rows)))
    assert (tmp_path / "orders.csv").stat().st_size > 5 << 20
    assert [row[:2] for row in as_rows(dataset)] == [(row[1], row[3]) for row in rows]
    end = '\n9,a,2024-05-01,p,1\n9,a,2024-05-01,"p",x\n'  # a blank line and a quote far down
    text = message(shop(tmp_path, orders=orders_of(rows).replace("\r\n", "\n") + end))
    assert text.startswith('orders.csv:150004: lineitem_quantity is "x"')


def test_a_cell_over_two_lines_may_stand_across_blocks(tmp_path):
    note = '"' + "a word and\n" * 30 + '"'
    orders = "note,customer_id,lineitem_sku,lineitem_quantity\n" + f"{note},a,p,1\n{note},b,q,2\n" * 7000
    assert len(orders) > 4 << 20
    assert len(read_shop(shop(tmp_path, orders=orders)).interactions) == 14_000


def test_lines_without_an_order_id_are_no_order_of_several_customers(tmp_path):
    rows = [("", "a", "2024-05-01", "p", 1), ("", "b", "2024-05-02", "p", 1), ("", "b", "2024-05-02", "q", 1)]
    dataset = read_shop(shop(tmp_path, orders=orders_of([*rows, ("7", "a", "2024-05-03", "q", 1)])))
    assert len(set(dataset.interactions.order.tolist())) == 4
    assert dataset.quality["warnings"] == []


def plain_and_careful(written: str) -> tuple[np.ndarray | None, np.ndarray]:
    return values._plain_dates(pa.array([written], pa.string())), values._dates(pd.Series([written], dtype="str"))


DAYS = ("2024-05-01", "2024-02-30", "1900-01-01", "0001-01-01", "9999-12-31", "2262-04-12", "2024-5-1", "20240501",
        "24-05-01", "2024-05", "2024-122", "2024-W18-3", "")  # fmt: skip


@pytest.mark.parametrize("day", DAYS)
def test_the_quick_way_to_read_dates_gives_the_dates_of_the_careful_one(day):
    times = ("", "T09:58:12", " 09:58:12", " 09:58", " 09", " 24:00:00", " 23:59:60", " 09:58:12.5", " 09:58:12.000",
             "T09:58:12Z", " 09:58:12 +0200", " 09:58:12 UTC", "T095812", " ", "x")  # fmt: skip
    for time in times:
        quick, careful = plain_and_careful(day + time)
        assert quick is None or np.array_equal(quick, careful, equal_nan=True), day + time


DATE_LIKE = st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9](:[0-5][0-9]){0,2})?", fullmatch=True)


@settings(max_examples=300, deadline=None)
@given(st.one_of(DATE_LIKE, st.datetimes().map(str), st.dates().map(str), st.text("0123456789-:TZ+. ", max_size=20)))
def test_the_quick_way_to_read_dates_never_reads_others(written):
    quick, careful = plain_and_careful(written)
    assert quick is None or np.array_equal(quick, careful, equal_nan=True)
