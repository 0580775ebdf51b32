"""The settings of the linear autoencoders."""

from __future__ import annotations

import dataclasses

from aejax.errors import InputError, nearest
from aejax.matrix import TargetSettings, check_not_negative, check_powers, check_shares

SIDES = ("auto", "items", "users")


@dataclasses.dataclass(frozen=True)
class EASESettings(TargetSettings):
    """Settings of a linear autoencoder.

    Attributes:
      l2: ridge.
      l2_power: the ridge of a product with n customers is `l2 * n ** l2_power`.
      dropout: p of the emphasised dropout.
      xi: the most that a product's own weight may be.
      item_power: a product's column is scaled by `n ** item_power` on its way in, and by the inverse on its way out.
      user_power: a customer with m products weighs `m ** -user_power`, times what keeps the energy of all.
      attribute_weight: of the rows of products' attributes; 0: none.
      side: `items`, `users`, or `auto` for the smaller one.
    """

    l2: float = 500.0
    l2_power: float = 0.0
    dropout: float = 0.0
    xi: float = 0.0
    item_power: float = 0.0
    user_power: float = 0.0
    attribute_weight: float = 0.0
    side: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.l2 >= 1e-6:
            raise InputError(f"l2 is {self.l2:g}; expected 1e-6 or more")
        check_shares(self, "dropout", "xi")
        check_not_negative(self, "attribute_weight")
        check_powers(self, "l2_power", "item_power", "user_power")
        if self.side not in SIDES:
            raise InputError(f'side is "{self.side}"; {nearest(self.side, SIDES)}')


@dataclasses.dataclass(frozen=True)
class EDLAESettings(EASESettings):
    """Settings of `edlae`: see `EASESettings`."""

    dropout: float = 0.3


@dataclasses.dataclass(frozen=True)
class RDLAESettings(EDLAESettings):
    """Settings of `rdlae`: see `EASESettings`."""

    xi: float = 0.3


@dataclasses.dataclass(frozen=True)
class DANSettings(EASESettings):
    """Settings of `dan`: see `EASESettings`. Here the ridge is relative to a product's customers."""

    l2: float = 10.0
    l2_power: float = 1.0
    item_power: float = 0.3
    user_power: float = 0.5
