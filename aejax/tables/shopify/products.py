"""Products exports -> a row per product or per variant, and which item a line of an order is of."""

# What pyright infers from the sources of pandas, which ship no complete types:
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from aejax import quality
from aejax.quality import Dropped, FileAccount, counted, masked_text, shown
from aejax.tables import text
from aejax.tables.addresses import replaced
from aejax.tables.joining import Table
from aejax.tables.shopify.columns import frame_of, joined, parts, without_apostrophe
from aejax.tables.text import Coded, TextFile

# Of a product, whatever the variant; in the names that the frame has, then those of the layouts.
_OF_PRODUCT = {
    "title": ("title",),
    "vendor": ("vendor",),
    "product_category": ("product_category", "standardized_product_type", "standard_product_type"),
    "type": ("type", "custom_product_type"),
    "tags": ("tags",),
    "published": ("published", "published_on_online_store"),
    "status": ("status",),
    "gift_card": ("gift_card",),
}
_OF_VARIANT = {
    "sku": ("variant_sku", "sku"),
    "price": ("variant_price", "price"),
    "stock": ("variant_inventory_qty", "inventory_quantity"),
    "tracker": ("variant_inventory_tracker", "inventory_tracker"),
    "oversold": ("variant_inventory_policy", "continue_selling_when_out_of_stock"),
    "option1": ("option1_value",),
    "option2": ("option2_value",),
    "option3": ("option3_value",),
}
_HANDLE = ("handle", "url_handle")
_OPTIONS = ("option1", "option2", "option3")
_IMAGE = "image of a product"
_ELSEWHERE = "product is in a later file too"


@dataclasses.dataclass(frozen=True)
class Products:
    """The products.

    Attributes:
      table: a row each, `sku` first: the handle, or by variant its SKU.
      item_of_sku: SKU of a variant -> item.
      item_of_name: what lines of orders call a variant or a product -> item.
      warnings: plain sentences.
    """

    table: Table
    item_of_sku: Mapping[str, str]
    item_of_name: Mapping[str, str]
    warnings: Sequence[str]

    def items_of(self, sku: Coded, name: Coded) -> Coded:
        """The item of each line `[n]`, by its SKU, or by its name where that is blank; what is unknown stays."""
        by_sku = replaced(sku, lambda skus: [self.item_of_sku.get(one, one) for one in skus])
        # Who makes a line up at the counter may write in its name whom it is for.
        by_name = replaced(name, lambda names: [self.item_of_name.get(one, masked_text(one)) for one in names])
        rows = np.arange(len(sku.codes))
        return joined([by_sku, by_name]).take(np.where(sku.blank(), rows + len(rows), rows))


def read_products(files: Sequence[TextFile], *, by: str) -> Products:
    """The products.

    Args:
      files: the exports, part by part; a product of several counts as the last has it, and one that a file cut off
        is put together.
      by: `product` or `variant`.
    """
    if not files:
        table = Table(pd.DataFrame({"sku": [], "title": []}, dtype="str"), {}, "any products export")
        told = "no products_export*.csv: an item is what an order line has as its SKU, else its name"
        return Products(table, {}, {}, [told])
    whole = pd.concat([_read_part(file).assign(file=number) for number, file in enumerate(files)], ignore_index=True)
    place = whole[["file", "row"]]
    fate = pd.Series("", index=whole.index)
    fate[whole["handle"] == ""] = quality.NO_PRODUCT
    # A title stands in a product's first row alone.
    codes, file = pd.factorize(whole["handle"])[0], whole["file"].to_numpy()
    own = pd.Series(parts(codes, file, (whole["title"] != "").to_numpy()), index=whole.index)
    fate[(fate == "") & (own < own.groupby(codes).transform("max"))] = _ELSEWHERE
    rows = whole[fate == ""].copy()
    for name in _OF_PRODUCT:
        if name in rows:
            # The first cell of the product that says something; images and further variants say nothing.
            cells = rows[name].where(rows[name] != "")
            rows[name] = cells.groupby(rows["handle"]).transform("first").fillna("")
    options = rows[list(_OPTIONS)]
    is_variant = (rows[["sku", "price"]] != "").any(axis=1) | (options != "").any(axis=1)
    is_variant |= ~rows["handle"].duplicated()
    fate[rows.index[~is_variant]] = _IMAGE
    rows = rows[is_variant]
    rows["options"] = [
        " / ".join(one for one in own if one) if own != ("Default Title", "", "") else ""
        for own in rows[list(_OPTIONS)].itertuples(index=False, name=None)
    ]
    rows["title"] = rows["title"].where(rows["title"] != "", rows["handle"])
    rows["name"] = rows["title"].where(rows["options"] == "", rows["title"] + " - " + rows["options"])
    warnings = _shared_skus(rows)
    rows["variant"] = rows["sku"].where(rows["sku"] != "", rows["name"])
    rows["in_stock"] = _in_stock(rows)
    rows["item"] = rows["handle"] if by == "product" else rows["variant"]
    sold = rows[rows["sku"] != ""]
    names = pd.concat([rows.set_index("name")["item"], rows.set_index("title")["item"]])
    frame = _by_product(rows) if by == "product" else _by_variant(rows)
    fate[rows.index[rows["item"].duplicated()]] = "merged"
    return Products(
        Table(frame, _accounts(files, place, fate), files[0].path.name),
        _first(sold.set_index("sku")["item"]),
        _first(names),
        warnings,
    )


def _first(items: pd.Series) -> dict[str, str]:
    return items[~items.index.duplicated()].to_dict()


def _read_part(file: TextFile) -> pd.DataFrame:
    """The columns that are used, under their names here; those of variants are all there, blank where they are not."""
    own = next((name for name in _HANDLE if name in file.names), None)
    text.require_columns(file, {own or "handle": ("url_handle",), "title": ()})
    frame = frame_of(file)
    found = {"handle": frame[own or "handle"]}
    for name, layouts in {**_OF_PRODUCT, **_OF_VARIANT}.items():
        there = [layout for layout in layouts if layout in frame]
        if there:
            # Two layouts' columns in one file say the same; the first that says anything counts.
            cells = frame[there].where(frame[there] != "").bfill(axis=1).iloc[:, 0]
            found[name] = cells.fillna("")
        elif name in _OF_VARIANT:
            found[name] = pd.Series("", index=frame.index, dtype="str")
    for name in ("handle", "sku"):
        found[name] = pd.Series(without_apostrophe(found[name]), index=frame.index, dtype="str")
    return pd.DataFrame(found, dtype="str").assign(row=np.arange(len(frame)))


def _in_stock(rows: pd.DataFrame) -> pd.Series:
    """Whether a variant can be sold: pieces are left, none are counted, or it is sold without."""
    number = pd.Series(pd.to_numeric(rows["stock"], errors="coerce"), index=rows.index)
    if rows["tracker"].ne("").to_numpy().any():
        number = number.mask(rows["tracker"] == "")
    return number.isna() | (number > 0) | rows["oversold"].str.lower().isin(["continue", "true", "yes"])


def _by_product(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per handle, with its variants and the first of them that is in stock."""
    first = rows.drop_duplicates("item").set_index("item")
    sellable = rows[rows["in_stock"]].drop_duplicates("item").set_index("item")
    variants = rows.groupby("item", sort=False)["variant"].agg(lambda own: json.dumps(list(dict.fromkeys(own))))
    frame = first[[name for name in _OF_PRODUCT if name in first]].assign(
        price=sellable["price"].reindex(first.index).fillna(first["price"]),
        variant_sku=sellable["variant"].reindex(first.index).fillna(""),
        variants=variants.reindex(first.index),
    )
    return frame.reset_index().rename(columns={"item": "sku"}).astype("str")


def _by_variant(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per variant, called by its product and its options."""
    first = rows.drop_duplicates("item")
    columns = [name for name in _OF_PRODUCT if name in first and name != "title"]
    return (
        first[["item", "name", *columns, "price", "handle", "options"]]
        .rename(columns={"item": "sku", "name": "title"})
        .reset_index(drop=True)
        .astype("str")
    )


def _shared_skus(rows: pd.DataFrame) -> list[str]:
    """What to say of SKUs that several products have."""
    sold = rows[rows["sku"] != ""]
    shared = sold.groupby("sku")["handle"].nunique()
    shared = shared[shared > 1].index
    if not len(shared):
        return []
    titles = sold[sold["sku"] == shared[0]].drop_duplicates("handle")["title"].tolist()
    return [
        f"{counted(len(shared), 'SKU')} under several products, such as {shown(shared[0])} "
        f"({', '.join(shown(title) for title in titles[:3])}); the first counts: give each variant a SKU of its own"
    ]


def _accounts(files: Sequence[TextFile], place: pd.DataFrame, fate: pd.Series) -> dict[str, FileAccount]:
    used = {name for layouts in (_HANDLE, *_OF_PRODUCT.values(), *_OF_VARIANT.values()) for name in layouts}
    accounts = {}
    for number, file in enumerate(files):
        own = (place["file"] == number).to_numpy()
        dropped = {}
        for reason in (quality.NO_PRODUCT, _ELSEWHERE, _IMAGE):
            rows = place["row"].to_numpy()[own & (fate == reason).to_numpy()]
            dropped[reason] = Dropped(len(rows), text.physical_lines(file, rows[: quality.FIRST_LINES]))
        accounts[file.path.name] = FileAccount(
            read=int(own.sum()),
            merged=int((own & (fate == "merged").to_numpy()).sum()),
            dropped=dropped,
            left_out=[name for name in file.names if name not in used],
            renamed=file.renamed,
        )
    return accounts
