from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aejax.datasets import read
from aejax.errors import InputError


def folder_of(folder: Path, **files: str | bytes) -> Path:
    """Files by name, with `__` for a dot."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def as_rows(dataset) -> list[tuple]:
    """(user, item, part, moment) of each pair, in the order of the lines."""
    lines = dataset.interactions
    n = len(lines)
    at = [None] * n if lines.at is None else lines.at.astype("int64").tolist()
    part = [None] * n if lines.part is None else lines.part.tolist()
    return list(zip(lines.users.ids[lines.user], lines.items.ids[lines.item], part, at, strict=True))


def message(folder: Path, **options) -> str:
    with pytest.raises(InputError) as problem:
        read(folder, **options)
    return str(problem.value)


def assert_adds_up(dataset) -> None:
    files = dataset.quality["files"]
    for account in files.values():
        dropped = sum(reason["rows"] for reason in account["dropped"].values())
        assert account["read"] == account["kept"] + account["merged"] + account["netted"] + dropped
    assert sum(account["kept"] for account in files.values()) == len(dataset.interactions)


def test_lightgcn(tmp_path):
    folder = folder_of(tmp_path, train__txt="0 10 2\n007 2 \n\n3\n", test__txt="0 5\n007 10\r\n4 2 5")
    dataset = read(folder)
    assert dataset.format == "lightgcn"
    assert as_rows(dataset) == [
        ("0", "10", 0, None),
        ("0", "2", 0, None),
        ("007", "2", 0, None),
        ("0", "5", 2, None),
        ("007", "10", 2, None),
        ("4", "2", 2, None),
        ("4", "5", 2, None),
    ]
    assert dataset.interactions.order.tolist() == list(range(7))
    assert dataset.interactions.quantity.tolist() == [1] * 7
    assert dataset.interactions.users.ids.tolist() == ["0", "007", "4"]
    assert dataset.products.to_dict("list") == {"sku": ["10", "2", "5"], "title": ["10", "2", "5"]}
    assert dataset.quality["protocols"]["possible"] == ["predefined", "users", "items", "reconstruction"]
    assert dataset.quality["warnings"] == [
        "1 user of the test part without anything to train on; left out of its figures",
        "1 item of the test part never seen in training; no model can find them",
    ]
    assert_adds_up(dataset)


def test_pairs_that_stand_twice_are_merged_within_a_part_and_kept_in_each_part(tmp_path):
    folder = folder_of(tmp_path, train__txt="\nu a b a\nv c\n", test__txt="v a\nu a a d d\n")
    dataset = read(folder)
    expected = [("u", "a", 0), ("u", "b", 0), ("v", "c", 0), ("v", "a", 2), ("u", "a", 2), ("u", "d", 2)]
    assert [row[:3] for row in as_rows(dataset)] == expected
    files = dataset.quality["files"]
    assert (files["train.txt"]["merged"], files["train.txt"]["dropped"]) == (1, {})
    assert (files["test.txt"]["merged"], files["test.txt"]["dropped"]) == (2, {})
    assert dataset.quality["warnings"][-1] == (
        "1 row of the test part also in the train part; targets under --repeat include only"
    )
    assert_adds_up(dataset)


part_rows = st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(0, 9)), max_size=12)


@given(part_rows, part_rows, part_rows)
def test_recbole_parts_against_a_slow_twin(tmp_path_factory, train, valid, test):
    # A pair of its own in train and in test: there always is something to learn from.
    parts = {"train": [*train, ("x", "e", 1)], "valid": valid, "test": [*test, ("y", "f", 2)]}
    folder = tmp_path_factory.mktemp("recbole")
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    for name, rows in parts.items():
        if rows:
            text = header + "".join(f"{user}\t{item}\t{at}\n" for user, item, at in rows)
            (folder / f"toy.{name}.inter").write_text(text)
    dataset = read(folder)
    expected: dict[tuple, int] = {}
    for code, name in enumerate(parts):
        for user, item, at in parts[name]:
            expected[user, item, code] = min(at, expected.get((user, item, code), at))
    rows = as_rows(dataset)
    assert Counter(rows) == Counter((*key, at) for key, at in expected.items())
    assert [row[2] for row in rows] == sorted(row[2] for row in rows)
    assert_adds_up(dataset)


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t5\t100\n2\t8\t3.5\t200.9\n2\t7\t4\t1.5e2\n"


def test_recbole_single_file_with_titles(tmp_path):
    items = 'item_id:token\tmovie_title:token_seq\trelease_year:token\n7\t"Quoted" film\t1999\n9\tUnseen\t\n'
    dataset = read(folder_of(tmp_path, toy__inter=INTER, toy__item=items))
    assert dataset.format == "recbole"
    assert as_rows(dataset) == [("1", "7", None, 100), ("2", "8", None, 200), ("2", "7", None, 150)]
    assert dataset.products.to_dict("list") == {"sku": ["7", "8", "9"], "title": ['"Quoted" film', "8", "Unseen"]}
    assert dataset.customers["customer_id"].tolist() == ["1", "2"]
    assert dataset.quality["facts"]["period"] == ["1970-01-01T00:01:40", "1970-01-01T00:03:20"]
    assert dataset.quality["facts"]["repeat_share"] is None
    assert "predefined" in dataset.quality["protocols"]["impossible"]


def test_min_rating_drops_what_is_below(tmp_path):
    dataset = read(folder_of(tmp_path, toy__inter=INTER + "3\t8\t4\t1\n"), min_rating=4)
    assert [row[:2] for row in as_rows(dataset)] == [("1", "7"), ("2", "7"), ("3", "8")]
    account = dataset.quality["files"]["toy.inter"]
    assert account["dropped"] == {"rating below 4": {"rows": 1, "lines": [3]}}
    assert_adds_up(dataset)
    assert 'every row was dropped (4 rows: "rating below 6")' in message(tmp_path, min_rating=6)


def test_min_rating_without_ratings_is_refused(tmp_path):
    inter = "user_id:token\titem_id:token\n1\t7\n2\t8\n"
    assert message(folder_of(tmp_path / "r", toy__inter=inter), min_rating=4) == (
        "--min-rating 4 needs ratings, and toy.inter has none; leave it out"
    )
    lightgcn = folder_of(tmp_path / "l", train__txt="0 1 2\n1 1", test__txt="1 2")
    assert message(lightgcn, min_rating=3.5).startswith("--min-rating 3.5 needs ratings, and train.txt has none")
    shop = folder_of(tmp_path / "s", orders__csv="x")
    assert message(shop, min_rating=1).startswith("--min-rating 1 needs ratings, and orders.csv has none")


def test_a_split_stands_before_the_whole(tmp_path):
    folder = folder_of(tmp_path, toy__inter=INTER, toy__train__inter=INTER, toy__test__inter=INTER + "1\t8\t1\t1\n")
    dataset = read(folder)
    assert Counter(row[2] for row in as_rows(dataset)) == {0: 3, 2: 4}
    assert dataset.quality["warnings"][0] == "toy.inter is not read: toy.train.inter, toy.test.inter are the split"
    assert [path.name for path in dataset.files] == ["toy.train.inter", "toy.test.inter"]


def test_recbole_folders_that_say_too_little_or_too_much(tmp_path):
    assert "more than one data set (a.inter, b.inter)" in message(
        folder_of(tmp_path / "2", a__inter=INTER, b__inter=INTER)
    )
    assert "at least a train and a test file" in message(folder_of(tmp_path / "1", a__train__inter=INTER))
    headless = folder_of(tmp_path / "0", a__inter="1\t2\n")
    assert message(headless).startswith("a.inter:1: the first line holds a number")


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("soon", '"soon"; expected Unix seconds'),
        ("1714557492000", '"1714557492000"; expected Unix seconds'),
        ("", "blank;"),
    ],
)
def test_other_timestamps_are_refused(tmp_path, cell, found):
    text = message(folder_of(tmp_path, toy__inter=INTER + f"\n3\t8\t4\t{cell}\n"))
    assert text.startswith(f"toy.inter:6: timestamp is {found}")


def test_other_ratings_are_refused(tmp_path):
    folder = folder_of(tmp_path, toy__inter=INTER + "3\t8\tgood\t5\n")
    assert message(folder, min_rating=1).startswith('toy.inter:5: rating is "good"; expected a number')
    assert len(read(folder).interactions) == 4


def test_ragged_rows_and_blank_ids(tmp_path):
    assert message(folder_of(tmp_path, toy__inter=INTER + "3\t8\n")).startswith("toy.inter:5: expected 4 cells")
    dataset = read(folder_of(tmp_path, toy__inter=INTER + "\t8\t4\t5\n3\t \t4\t5\n"))
    dropped = dataset.quality["files"]["toy.inter"]["dropped"]
    assert dropped == {"no customer": {"rows": 1, "lines": [5]}, "no product": {"rows": 1, "lines": [6]}}
    assert dataset.customers["customer_id"].tolist() == ["1", "2", "3"]


def test_movielens_csv_and_dat_agree(tmp_path):
    rows = [("1", "10", "4.0", "964982703"), ("2", "10", "2.5", "964982931"), ("2", "007", "5.0", "964983815")]
    dat = folder_of(
        tmp_path / "dat",
        ratings__dat="".join("::".join(row) + "\n" for row in rows),
        movies__dat="10::Die Fälscher, 2007::Crime\n007::Dr. No (1962)::Action|Spy\n".encode("latin-1"),
    )
    table = folder_of(
        tmp_path / "csv",
        ratings__csv="userId,movieId,rating,timestamp\n" + "".join(",".join(row) + "\n" for row in rows),
        movies__csv='movieId,title,genres\n10,"Die Fälscher, 2007",Crime\n007,Dr. No (1962),Action|Spy\n',
    )
    for folder in (dat, table):
        dataset = read(folder)
        assert dataset.format == "movielens"
        assert as_rows(dataset) == [(user, item, None, int(at)) for user, item, _, at in rows]
        assert dataset.products.to_dict("list") == {
            "sku": ["007", "10"],
            "title": ["Dr. No (1962)", "Die Fälscher, 2007"],
        }
        assert [row[:2] for row in as_rows(read(folder, min_rating=2.6))] == [("1", "10"), ("2", "007")]
    dropped = read(dat, min_rating=2.6).quality["files"]["ratings.dat"]["dropped"]
    assert dropped == {"rating below 2.6": {"rows": 1, "lines": [2]}}


def test_dat_files_have_messages_with_lines_too(tmp_path):
    folder = folder_of(tmp_path, ratings__dat="1::10::4::5\n2::11::4\n")
    assert message(folder).startswith("ratings.dat:2: expected 4 cells")
    assert message(folder_of(tmp_path, ratings__dat="")).startswith("ratings.dat is empty (0 bytes)")
    text = message(folder_of(tmp_path, ratings__dat="1::10::4::5\n\n2::11::4::then\n"))
    assert text.startswith('ratings.dat:3: timestamp is "then"')


def test_lightgcn_bad_input(tmp_path):
    assert "has no test.txt" in message(folder_of(tmp_path, train__txt="0 1"))
    text = message(folder_of(tmp_path, test__txt=b"0 1\n1 \xff\n"))
    assert text.startswith("test.txt:2: byte 3 of the line (0xff) is not UTF-8")
    for nothing in ("", "\n", "0\n1\n"):
        assert message(folder_of(tmp_path, test__txt=nothing)).startswith("test.txt holds no pairs")
    assert "only one customer" in message(folder_of(tmp_path, train__txt="0 1 2", test__txt="0 3"))
    assert "only one product" in message(folder_of(tmp_path, train__txt="0 1\n2 1", test__txt="3 1"))


def test_an_unknown_folder_lists_what_is_there_and_what_was_expected(tmp_path):
    text = message(folder_of(tmp_path, data__json="{}"))
    assert "(there are: data.json)" in text
    for name in ("orders.csv", "train.txt", "NAME.inter", "ratings.csv"):
        assert name in text
    assert "is not a folder" in message(tmp_path / "nowhere")
    assert "is not a folder" in message(tmp_path / "data.json")


def test_a_shop_is_recognised_by_any_of_its_files(tmp_path):
    text = message(folder_of(tmp_path, customers__csv="customer_id\na\n"))
    assert "has no orders.csv" in text
