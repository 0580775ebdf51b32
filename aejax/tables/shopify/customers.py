"""Customers exports -> customers by the shop's own ids, without addresses, and which address is whose."""

# What pyright infers from the sources of pandas, which ship no complete types:
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from aejax import quality
from aejax.quality import Dropped, FileAccount, counted
from aejax.tables import addresses, text
from aejax.tables.joining import Table
from aejax.tables.shopify.columns import frame_of, without_apostrophe
from aejax.tables.text import TextFile

_ID = ("customer_id", "id")
# Sums up to the day of the export: what is to be predicted is in them.
_OF_THE_FUTURE = ("total_spent", "total_orders")
_TWICE = "customer is in another row too"


def read_customers(files: Sequence[TextFile]) -> tuple[Table, dict[str, str], list[str]]:
    """The customers, the shop's ids by e-mail address, and warnings.

    A customer without an id goes by a hash of the address; one with neither is dropped. Of a customer in several rows
    the last counts.

    Raises:
      InputError: there is no column `email`, or an address needs a hash and there is no key.
    """
    frames, known, left_out = [], {}, {}
    for number, file in enumerate(files):
        text.require_columns(file, {"email": ("e-mail", "customer_email")})
        frame = frame_of(file)
        own = next((name for name in _ID if name in frame), None)
        ids = pd.Series(without_apostrophe(frame[own]) if own else "", index=frame.index, dtype="str")
        frame = frame.drop(columns=[own] if own else [])
        frame = pd.concat([ids.rename("customer_id"), frame], axis=1)
        known = addresses.ids_by_address(frame) | known
        name = addresses.address_column(frame)
        unnamed = ids == ""
        if name is not None:
            unnamed &= frame[name] != ""
            ids = ids.mask(unnamed, frame[name])
        frame["customer_id"] = addresses.without_addresses(ids.tolist(), file.path.name, known)
        left_out[number] = [one for one in _OF_THE_FUTURE if one in frame]
        frames.append(frame.drop(columns=left_out[number]).assign(_file=number, _row=np.arange(len(frame))))
    if not frames:
        told = "no customers_export*.csv: customers go by keyed hashes of their addresses, and nothing is known of them"
        return Table(pd.DataFrame({"customer_id": []}, dtype="str"), {}, "any customers export"), known, [told]
    whole = pd.concat(frames, ignore_index=True).fillna("")
    place = whole[["_file", "_row"]]
    for name in ("default_address_zip", "zip"):
        if name in whole:
            whole[name] = without_apostrophe(whole[name])
    blank = (whole["customer_id"] == "").to_numpy()
    again = whole["customer_id"].duplicated(keep="last").to_numpy() & ~blank
    title = files[0].path.name
    kept = whole.loc[~blank & ~again].drop(columns=["_file", "_row"]).reset_index(drop=True)
    kept, personal, warnings = addresses.without_personal(kept, title)
    if again.any():
        warnings.append(
            f"{counted(int(again.sum()), 'row')} of {title} with a customer of a later row; that one counts"
        )
    accounts = {}
    for number, file in enumerate(files):
        own_rows = (place["_file"] == number).to_numpy()
        dropped = {}
        for reason, broken in ((quality.NO_CUSTOMER, blank), (_TWICE, again)):
            rows = place["_row"].to_numpy()[own_rows & broken]
            dropped[reason] = Dropped(len(rows), text.physical_lines(file, rows[: quality.FIRST_LINES]))
        gone = [one for one in file.names if one in personal]
        accounts[file.path.name] = FileAccount(
            read=int(own_rows.sum()), dropped=dropped, left_out=[*gone, *left_out[number]], renamed=file.renamed
        )
    return Table(kept, accounts, title), known, warnings
