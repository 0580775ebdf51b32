"""Model names -> families, imported only when used; and settings from plain text."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aejax.errors import InputError, nearest

if TYPE_CHECKING:
    from aejax.models import Family

MODELS = {
    "popularity": "aejax.models.popularity:FAMILY",
    "popularity-recent": "aejax.models.popularity:RECENT",
    "popularity-category": "aejax.models.popularity:CATEGORY",
    "popularity-segment": "aejax.models.popularity_segment:FAMILY",
    "own-frequency": "aejax.models.own_history:OWN_FREQUENCY",
    "own-recency": "aejax.models.own_history:OWN_RECENCY",
    "last-basket": "aejax.models.own_history:LAST_BASKET",
    "ae": "aejax.models.ae:FAMILY",
    "vae": "aejax.models.vae:FAMILY",
    "autorec": "aejax.models.autorec:FAMILY",
    "multdae": "aejax.models.multvae:MULTDAE",
    "multvae": "aejax.models.multvae:MULTVAE",
    "cdae": "aejax.models.cdae:FAMILY",
    "recvae": "aejax.models.recvae:FAMILY",
    "macridvae": "aejax.models.macridvae:FAMILY",
    "nextorder": "aejax.models.nextorder:FAMILY",
    "itemknn": "aejax.models.neighbours:ITEMKNN",
    "userknn": "aejax.models.neighbours:USERKNN",
    "rp3beta": "aejax.models.neighbours:RP3BETA",
    "tifuknn": "aejax.models.next_basket:TIFU_KNN",
    "upcf": "aejax.models.next_basket:UP_CF",
    "ials": "aejax.models.ials:FAMILY",
    "gfcf": "aejax.models.spectral:GFCF",
    "bspm": "aejax.models.spectral:BSPM",
    "ease": "aejax.models.linear:EASE",
    "edlae": "aejax.models.linear:EDLAE",
    "rdlae": "aejax.models.linear:RDLAE",
    "dan": "aejax.models.linear:DAN",
    "slim": "aejax.models.slim:FAMILY",
    "elsa": "aejax.models.elsa:FAMILY",
    "blend": "aejax.experiment.blending:FAMILY",
}


_EXPECTED = {
    float: "a finite number",
    bool: "true or false",
    tuple[int, ...]: "whole numbers such as 128,64",
    tuple[float, ...]: "numbers such as 0.7,0.3",
    tuple[str, ...]: "names such as ease,gfcf",
}


def family(name: str) -> Family:
    """The family of this name.

    Raises:
      InputError: no such model; the message proposes the nearest.
    """
    if name not in MODELS:
        raise InputError(f'model "{name}" is unknown; {nearest(name, MODELS)}')
    module, attribute = MODELS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def field_types(settings: type) -> dict[str, Any]:
    """Names and types of a settings dataclass."""
    hints = typing.get_type_hints(settings)
    return {field.name: hints[field.name] for field in dataclasses.fields(settings)}


def attribute_models() -> str:
    """The models that score a product that nobody bought by its attributes, and what has them do so, for a message: "a;
    b, c (--set attribute_weight=1)".
    """
    found: dict[str, list[str]] = {}
    for name in MODELS:
        own = family(name)
        if own.needs_attributes:
            found.setdefault("", []).append(name)
        elif own.of_attributes:
            setting = own.of_attributes[0]  # one that is not 0 is enough
            given = "true" if field_types(own.settings)[setting] is bool else 1
            found.setdefault(f" (--set {setting}={given})", []).append(name)
    return "; ".join(f"{', '.join(names)}{needed}" for needed, names in found.items())


def make_settings(name: str, given: Mapping[str, Any]) -> Any:
    """The settings of a model: its defaults, with what is given as text (`--set`) or as JSON values.

    Raises:
      InputError: an unknown setting, or a value of the wrong type or range.
    """
    kind = family(name).settings
    known = field_types(kind)
    values = {}
    for key, value in given.items():
        if key not in known:
            if key == "values":
                raise InputError(
                    f"--values {value} is nothing to model {name}, which by its definition reads purchases as they "
                    "are; leave it out"
                )
            remedy = nearest(key, known) if known else "it has none"
            raise InputError(f'model {name} has no setting "{key}"; {remedy}')
        values[key] = _parse(f"{key} of model {name}", value, known[key])
    return kind(**values)


def as_json(settings: Any) -> dict[str, Any]:
    """Every setting, defaults included, in the form that JSON gives back."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _parse(place: str, value: Any, kind: Any) -> Any:
    """`value` (text or JSON) as `kind`: int, float, bool, str, tuple[int, ...], or one of them or None."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is None or value in ("none", "None"):
            return None
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    try:
        if typing.get_origin(kind) is tuple:
            parts = value.strip("()[] ").split(",") if isinstance(value, str) else value
            parts = [part.strip(" '\"") if isinstance(part, str) else part for part in parts]
            return tuple(_parse(place, part, typing.get_args(kind)[0]) for part in parts if part != "")
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]  # bool("false") is True
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        if typing.get_origin(kind) is Mapping:
            if not isinstance(value, Mapping):
                raise TypeError
            return value
        if kind is float and not math.isfinite(float(value)):
            raise ValueError
        return kind(value)
    except (ValueError, TypeError, KeyError):
        expected = _EXPECTED.get(kind, getattr(kind, "__name__", "a table of settings"))
        raise InputError(f'{place} is "{value}"; expected {expected}') from None
