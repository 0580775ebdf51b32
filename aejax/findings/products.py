"""SKUs that are no products: postage, gift cards, discounts, fees, samples, tests."""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from aejax.findings.finding import SAMPLES, Draft, Finding, share, without_place
from aejax.interactions import Interactions
from aejax.quality import counted, masked_text, shown

NAMED_IN_REMEDY = 30
WITH_DIGITS = 0.9  # of the SKUs: then one without is of another form

# Titles of what is no product, in English, German, French, Italian and Spanish: the whole title, its end, its start.
# Whole words only, without amounts: "FRENCH CARRIAGE LANTERN" and "Pregnancy Test Kits" are products.
_WHOLE = (
    "postage|carriage|delivery|shipping|discount|fees?|samples?|test|tests?( |-)?(product|item|artikel|produkt)|manual|"
    "adjustment|coupon|voucher|donation|tip|surcharge|versand|porto|lieferung|gutschein|rabatt|geb(ü|ue)hr|muster|"
    "trinkgeld|spende|livraison|remise|frais|(é|e)chantillons?|pourboire|spedizione|sconto|campion[ei]|mancia|"
    "env(í|i)o|descuento|muestras?|propina"
)
_END = (
    "postage|(free|express|standard|international) (shipping|delivery)|(next day|standard|express) carriage|"
    "(shipping|delivery|handling|service|bank|card) (cost|charge|fee)s?|bank charges?|(amazon|paypal|restocking) fees?|"
    r"gift ?(card|voucher|certificate)s?|discount|\w*versandkosten|\w*geschenkgutschein|\w*geschenkkarte|"
    r"\w+gutschein|\w+rabatt|\w+geb(ü|ue)hr"
)
_START = (
    "frais de (port|livraison)|carte[- ]cadeau|bon cadeau|ch(è|e)que[- ]cadeau|spese di spedizione|carta regalo|"
    "buono regalo|gastos de env(í|i)o|tarjeta (de )?regalo|cheque regalo"
)
_NO_PRODUCT = re.compile(rf"(?:{_WHOLE})|(?:.*[\s-])?(?:{_END})|(?:{_START})(?:\s.*)?", re.IGNORECASE)
# A quick pass by another engine, without the word boundaries: it leaves out no title that the pattern takes.
_SUSPECT = rf"{_WHOLE}|{_END}|{_START}"
_AMOUNTS = re.compile(r"[\d.,%$€£()+/-]+(?=\s|$)|(?<!\S)[\d.,%$€£()+/-]+|\b(chf|eur|usd|gbp)\b", re.IGNORECASE)


def odd_products(lines: Interactions, products: pd.DataFrame) -> Draft | None:
    """SKUs that are no products: their title says so, or they hold no digit where 90% of the SKUs do.

    Args:
      lines: order lines.
      products: `sku` and `title` of all of them.
    """
    skus = lines.items.ids
    has_digit = pc.match_substring_regex(pa.array(skus, pa.string()), r"\d").to_numpy(zero_copy_only=False)
    odd = ~has_digit if has_digit.mean() >= WITH_DIGITS else np.zeros(len(skus), dtype=bool)
    named = pc.match_substring_regex(pa.array(products["title"], pa.string()), _SUSPECT, ignore_case=True)
    suspects = products.loc[named.to_numpy(zero_copy_only=False), ["sku", "title"]]
    position = lines.items.index(sku for sku, title in suspects.itertuples(index=False) if is_no_product(title))
    odd[position[position >= 0]] = True
    if not odd.any():
        return None
    titles = dict(zip(products["sku"], products["title"], strict=True))
    number_of_lines = np.bincount(lines.item, minlength=len(skus))
    found = np.flatnonzero(odd)
    found = found[np.argsort(-number_of_lines[found], kind="stable")]
    count = int(number_of_lines[found].sum())
    labels = []
    for one in found[:SAMPLES]:
        title = titles.get(skus[one], skus[one])
        called = "" if title == skus[one] else f" {shown(title)}"
        labels.append(f"{shown(str(skus[one]))}{called}, {counted(int(number_of_lines[one]), 'line')}")
    named = json.dumps([masked_text(str(skus[one])) for one in found[:NAMED_IN_REMEDY]], ensure_ascii=False)
    more = f" (and {len(found) - NAMED_IN_REMEDY:,} more)" if len(found) > NAMED_IN_REMEDY else ""
    sentence = (
        f"{counted(len(found), 'SKU')} of {len(skus):,} look like no product: postage, a gift card, a discount, a fee "
        f"or a SKU without a digit; {counted(count, 'order line')} ({share(count, len(lines))})"
    )
    remedy = (
        f"where they are none, leave them out of the export, or out of the lists: recommend --rules FILE with "
        f"[never] and sku = {named}{more}"
    )
    return without_place(Finding("odd-products", sentence, count, remedy=remedy), labels)


def is_no_product(title: str) -> bool:
    """Whether a title is that of postage, a gift card, a discount, a fee, a sample or a test, in five languages."""
    return _NO_PRODUCT.fullmatch(" ".join(_AMOUNTS.sub(" ", title).split())) is not None
