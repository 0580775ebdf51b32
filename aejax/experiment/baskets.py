"""Baskets: what customers bought whom a run need not know, so that they get lists without training again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aejax.errors import InputError
from aejax.experiment.loading import Run
from aejax.experiment.preparing import with_attributes
from aejax.experiment.reading import NOBODY
from aejax.interactions import TRAIN, Interactions, Vocabulary
from aejax.quality import counted, samples
from aejax.recommendation import Known
from aejax.tables import addresses, text, values

_CUSTOMER, _SKU, _QUANTITY = ("customer_id",), ("sku", "lineitem_sku"), ("quantity", "lineitem_quantity")
SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Baskets:
    """What a file of baskets holds.

    Attributes:
      customers: their ids, in the order in which they first stand in the file.
      lines: purchases and returns of products that the run knows; `users` are the customers, `items` the run's
        products. Those without `created_at` have no moment (NaT), those of a file without `order_id` are of one order
        for each customer and moment.
      notes: sentences on what was not used.
    """

    customers: list[str]
    lines: Interactions
    notes: list[str]


def read_baskets(path: Path, items: Vocabulary, known_ids: Mapping[str, str] = NOBODY) -> Baskets:
    """A CSV file with the columns `customer_id` and `sku`, and `quantity` (default 1; negative: sent back),
    `order_id` and `created_at` where it has them. Customers by their addresses become the ids that stand for these.

    Args:
      path: the file.
      items: the run's products.
      known_ids: the shop's ids by address, as `ids_by_address` gives them; the keyed hash stands for all others.

    Raises:
      InputError: the file cannot be read as such, or holds no product that the run knows; or an address and there is
        no key.
    """
    if not path.is_file():
        raise InputError(f"--baskets {path} is no file; expected a CSV file with the columns customer_id and sku")
    file = text.open_text(path)
    names = {names[0]: next((name for name in names if name in file.names), None) for names in (_SKU, _QUANTITY)}
    sku_name, quantity_name = names["sku"] or "sku", names["quantity"]
    text.require_columns(file, {"customer_id": _CUSTOMER, sku_name: ("variant_sku", "product_id", "item_id", "id")})
    wanted = [name for name in ("customer_id", sku_name, quantity_name, "order_id", "created_at") if name in file.names]
    columns = text.read_coded(file, wanted)
    customer, sku = columns["customer_id"], columns[sku_name]
    customer = addresses.replaced(
        customer, lambda ids: addresses.without_addresses(ids, f"--baskets {path.name}", known_ids)
    )
    quantity = np.ones(len(customer.codes), dtype=np.int32)
    if quantity_name is not None:
        quantity = values.quantities(file, quantity_name, columns[quantity_name])
    at, notes = np.full(len(quantity), np.datetime64("NaT", "s")), list(file.told)
    if "created_at" in columns:
        at, read_as = values.moments(file, "created_at", columns["created_at"])
        notes += read_as
    blank = customer.blank() | sku.blank() | (quantity == 0)
    ids = [customer.text(int(row)) for row in np.flatnonzero(~blank)]
    if not ids:
        raise InputError(f"{path.name} holds no basket: no row has a customer_id, a {sku_name} and a quantity")
    users = Vocabulary.of(ids)
    item = items.index(sku.values.to_pylist()).astype(np.int32)[sku.codes]
    unknown = np.flatnonzero(~blank & (item < 0))
    unknown_skus = list(dict.fromkeys(sku.text(int(row)) for row in unknown))
    known = np.flatnonzero(~blank & (item >= 0))
    if not len(known):
        raise InputError(
            f"{path.name}: none of its {counted(len(unknown_skus), 'SKU')} is a product of this run "
            f"({samples(unknown_skus, SHOWN)}); its SKUs are such as {samples(items.ids[:3])}, so give those of the "
            "run's products.csv"
        )
    user = users.index(customer.values.to_pylist()).astype(np.int32)[customer.codes]
    order = np.stack([user, at.astype(np.int64) if "order_id" not in columns else columns["order_id"].codes])
    lines = _summed(
        Interactions(user[known], item[known], quantity[known], users, items, at=at[known]), order[:, known]
    )
    if blank.any():
        notes.append(f"{counted(int(blank.sum()), 'row')} of {path.name} without customer, SKU or quantity: not used")
    if len(unknown):
        notes.append(
            f"{counted(len(unknown), 'row')} of {path.name} not used: {counted(len(unknown_skus), 'SKU')} unknown to "
            f"this run, or set aside by it as rare: {samples(unknown_skus, SHOWN)}"
        )
    return Baskets(list(dict.fromkeys(ids)), lines, notes)


def _summed(lines: Interactions, orders: np.ndarray) -> Interactions:
    """Those of one order and product added up to one line; where that is 0 there is none. `orders` `[2, N]` tells
    orders apart.
    """
    _, order = np.unique(orders, axis=1, return_inverse=True)
    order = np.asarray(order).ravel().astype(np.int32)
    _, first, group = np.unique(np.stack([order, lines.item]), axis=1, return_index=True, return_inverse=True)
    total = np.bincount(np.asarray(group).ravel(), weights=lines.quantity).astype(np.int32)
    kept = np.argsort(first)  # in the order of the file
    kept = kept[total[kept] != 0]
    summed = dataclasses.replace(lines, order=order).take(first[kept])
    return dataclasses.replace(summed, quantity=total[kept])


def with_baskets(run: Run, known: Known, baskets: Baskets) -> Known:
    """What is known, as if the baskets had been among the orders: those of a customer with orders add to them, and
    lines without a moment are of the moment to which ages count.
    """
    lines, as_of = baskets.lines, known.as_of
    if as_of is not None:
        assert lines.at is not None
        dated = np.where(np.isnat(lines.at), as_of, lines.at)
        lines = dataclasses.replace(lines, at=dated)
        as_of = max(as_of, dated.max())
    users = Vocabulary.of([*known.lines.users.ids, *lines.users.ids])

    def added(before: Interactions) -> Interactions:
        both = (before, lines)
        columns: dict[str, Any] = {"user": [users.index(one.users.ids).astype(np.int32)[one.user] for one in both]}
        columns |= {name: [getattr(one, name) for one in both] for name in ("item", "quantity")}
        if before.order is not None:
            assert lines.order is not None
            columns["order"] = [before.order, lines.order + before.order.max(initial=-1) + np.int32(1)]
        if before.at is not None:
            columns["at"] = [before.at, lines.at]
        if before.part is not None:
            columns["part"] = [before.part, np.full(len(lines), TRAIN, before.part.dtype)]
        joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
        whole = Interactions(**joined, users=users, items=before.items)
        return with_attributes(whole, run.prepared.dataset, run.prepared.attributes)

    everything = added(known.everything)
    same = known.everything is known.lines
    return dataclasses.replace(
        known, lines=everything if same else added(known.lines), everything=everything, as_of=as_of
    )
