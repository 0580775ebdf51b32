r"""The inverse of a large matrix between customers who fall into groups that have little to do with each other.

What is inverted is `K = X L^-1 X' + 1` `[U, U]`, for a sparse user-item matrix X and a positive diagonal L. Where few
customers and products tie groups of the others together (shops of many places, whose customers seldom travel), these
few are set aside as a *separator*: what is left falls into leaves, and no customer of a leaf buys a product of another.
Then most of the work is done leaf by leaf, as in nested dissection: George (1973), Nested Dissection of a Regular
Finite Element Mesh, https://doi.org/10.1137/0710032.

**The separator.** METIS cuts the graph of customers and products into parts of like sizes with few edges between them:
Karypis and Kumar (1998), A Fast and High Quality Multilevel Scheme for Partitioning Irregular Graphs,
https://doi.org/10.1137/S1064827595287997. To separate the parts, one end at least of each edge that is cut must be set
aside. The edges that are cut form a graph between customers and products, so that the fewest such ends are as many as
a maximum matching has edges, and follow from it: König's theorem.

**The inverse.** Customers are ordered leaf by leaf, and those of the separator S last; Z are its products. With a
leaf's rows on its own products `X_k`, on the separator's `X_kZ`, and the separator's rows on the leaf's products
`X_Sk`, M is the block between customers of the inverse of

    [ K_R   X_Z  ]
    [ X_Z'  -L_Z ]    with  K_R = X_R L_R^-1 X_R' + 1  on the products R of the leaves,

because eliminating Z gives back K. In it a leaf is tied to nothing but the separator, by
`C_k = [X_k L^-1 X_Sk', X_kZ]`. With `M_k = (X_k L^-1 X_k' + 1)^-1` and `W_k = M_k C_k`, eliminating the leaves leaves
the separator's system

    [ E    F ]     E = 1 + X_SR L^-1 X_SR'  less the blocks between customers of all C_k' W_k
    [ F'  -G ]     F = X_SZ                 less those between customers and products
                   G = L_Z                  plus those between products, as  C_k' W_k = X_kZ' M_k X_kZ  there.

E and G are positive definite. Its inverse T is found through `T_SS = (E + F G^-1 F')^-1`:

    T_SZ = T_SS F G^-1        T_ZZ = (F G^-1)' T_SS F G^-1 - G^-1

and the inverse of K is, block by block,

    M_SS = T_SS        M_Sk = -T_S. W_k'        M_kl = [k = l] M_k + W_k T W_l'.

Nothing is left out: it is the inverse, whatever the parts, but for rounding; E and G are what is left of larger
numbers, so that where the ridge is weak it has about a digit less than the inverse as a whole. Where the separator is
large this is more work than the inverse as a whole, so that `choose` counts the multiplications first.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import maximum_bipartite_matching

from aejax import solve

# Into how many parts customers and products are cut, to see which takes the least work.
PARTS = (2, 4, 8)
# The share of the multiplications that must be left, for the smaller blocks and the products of sparse matrices.
WORTHWHILE = 0.6
SEED = 0


@dataclasses.dataclass(frozen=True)
class Dissection:
    """Customers and products in leaves, and in the separator that ties these.

    Attributes:
      customers: `[U]`, the leaf of each: from 0, and `leaves` for the separator.
      products: `[I]`, the same.
      leaves: how many.
    """

    customers: np.ndarray
    products: np.ndarray
    leaves: int

    @property
    def order(self) -> np.ndarray:
        """`[U]`, the customers leaf by leaf, the separator's last: the rows of `inverse`."""
        return np.argsort(self.customers, kind="stable")

    @property
    def sizes(self) -> np.ndarray:
        """Customers of each leaf and, last, of the separator: `[leaves + 1]`."""
        return np.bincount(self.customers, minlength=self.leaves + 1)


def choose(rows: sp.csr_array) -> Dissection:
    """The dissection of a user-item matrix `[U, I]` that takes the least work: a single leaf where none saves much."""
    users, items = rows.shape[0], rows.shape[1]
    best = min((dissect(rows, parts) for parts in PARTS), key=lambda dissection: work(dissection, rows))
    if work(best, rows) < WORTHWHILE * float(users) ** 3:
        return best
    return Dissection(np.zeros(users, dtype=np.intp), np.zeros(items, dtype=np.intp), 1)


def dissect(rows: sp.csr_array, parts: int) -> Dissection:
    """A user-item matrix `[U, I]` -> its customers and products in so many leaves, and the least separator of them."""
    import pymetis  # only large data need it

    users, items = rows.shape[0], rows.shape[1]
    graph = sp.csr_array(sp.block_array([[None, rows], [rows.T, None]]))
    options = pymetis.Options()
    options.seed = SEED
    adjacency = pymetis.CSRAdjacency(np.ravel(graph.indptr), np.ravel(graph.indices))
    _, labels = pymetis.part_graph(parts, adjacency, options=options)
    customers, products = np.split(np.asarray(labels, dtype=np.intp), [users])
    user, item = np.repeat(np.arange(users), np.diff(rows.indptr)), rows.indices
    is_cut = customers[user] != products[item]
    cut = sp.csr_array((np.ones(is_cut.sum()), (user[is_cut], item[is_cut])), shape=(users, items))
    aside = vertex_cover(cut)
    return Dissection(np.where(aside[0], parts, customers), np.where(aside[1], parts, products), parts)


def vertex_cover(edges: sp.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """The fewest vertices that every edge has an end in, of a graph between rows and columns: masks of both.

    König's theorem: from the rows without a partner in a maximum matching, follow edges to columns, and from these the
    matching back to rows. The cover is the rows with an edge that are not reached, and the columns that are.
    """
    partner = maximum_bipartite_matching(edges, perm_type="column")
    matched = np.flatnonzero(partner >= 0)
    row_of = np.full(edges.shape[1], -1)
    row_of[partner[matched]] = matched
    reached_rows = partner < 0
    reached_columns = np.zeros(edges.shape[1], dtype=bool)
    fresh = np.flatnonzero(reached_rows)
    while len(fresh):
        columns = np.unique(edges[fresh].indices)
        columns = columns[~reached_columns[columns]]
        reached_columns[columns] = True
        fresh = row_of[columns]  # each has a partner, or the matching would not be maximum
        reached_rows[fresh] = True
    return ~reached_rows, reached_columns


def work(dissection: Dissection, rows: sp.csr_array) -> float:
    """Multiplications and additions that `inverse` takes, all but those of sparse products; see there."""
    leaves = range(dissection.leaves)
    customers, products = dissection.customers, dissection.products
    sizes = dissection.sizes[: dissection.leaves].astype(float)
    user, item = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)), rows.indices
    separator_users, separator_items = float(dissection.sizes[-1]), float((products == dissection.leaves).sum())
    ties = np.array(
        [
            len(np.unique(user[(customers[user] == dissection.leaves) & (products[item] == leaf)]))
            + len(np.unique(item[(products[item] == dissection.leaves) & (customers[user] == leaf)]))
            for leaf in leaves
        ],
        dtype=float,
    )
    inverses = (sizes**3).sum() + separator_users**3 + separator_items**3
    separator = separator_users + separator_items
    between = separator_users * separator_items * 3 * separator
    towards = 2 * separator * (sizes * ties).sum()
    pairs = sum(2 * sizes[k] * sizes[l] * min(ties[k], ties[l]) for k in leaves for l in leaves[:k])
    return inverses + between + towards + pairs + (sizes**2 * ties).sum()


class _Leaf(NamedTuple):
    """A leaf whose own customers are eliminated.

    Attributes:
      span: its customers in the order of the inverse.
      ties: which of the separator it is tied to, `[b]` positions, customers before products.
      solved: `W'`, `[b, n]`.
    """

    span: slice
    ties: np.ndarray
    solved: np.ndarray


def inverse(rows: sp.csr_array, ridge: np.ndarray, dissection: Dissection) -> np.ndarray:
    """The inverse of `X L^-1 X' + 1` with its customers in the order of the dissection, `[U, U]` float32.

    Args:
      rows: X, `[U, I]` float32.
      ridge: the diagonal of L, `[I]`.
      dissection: of X.

    Raises:
      numpy.linalg.LinAlgError: it has no inverse in float32.
    """
    ordered = rows[dissection.order]
    full = solve.empty(len(dissection.order), len(dissection.order))
    bounds = np.concatenate([[0], np.cumsum(dissection.sizes)])
    spans = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
    members = [np.flatnonzero(dissection.products == leaf) for leaf in range(dissection.leaves + 1)]
    outer, shared = ordered[spans[-1]], ordered[:, members[-1]]
    system = _separator(outer, ridge, members)
    leaves = []
    for span, own in zip(spans[:-1], members[:-1], strict=True):
        if span.start < span.stop:
            tied = ordered[spans[-1]][:, own], shared[span]
            leaves.append(_eliminated(ordered[span][:, own], ridge[own], *tied, full, span, system))
    _invert_separator(system, outer.shape[0])
    _assemble(full, leaves, system, spans[-1])
    return full


def _separator(outer: sp.csr_array, ridge: np.ndarray, members: list[np.ndarray]) -> np.ndarray:
    """What the separator's system is before a leaf is eliminated, on and below its diagonal: `[s, s]`, of its rows X
    `[u, I]`.
    """
    inner = np.sort(np.concatenate(members[:-1]))
    users, items = outer.shape[0], len(members[-1])
    system = np.zeros((users + items, users + items), dtype=np.float32)
    rows = outer[:, inner]
    system[:users, :users] = (solve.over_ridge(rows, ridge[inner]) @ rows.T).toarray()
    system[np.arange(users), np.arange(users)] += 1
    system[users:, :users] = outer[:, members[-1]].toarray().T
    system[np.arange(users, len(system)), np.arange(users, len(system))] = -ridge[members[-1]]
    return system


def _eliminated(
    own: sp.csr_array,
    ridge: np.ndarray,
    outer: sp.csr_array,
    shared: sp.csr_array,
    full: np.ndarray,
    span: slice,
    system: np.ndarray,
) -> _Leaf:
    """Eliminates a leaf's customers: its `M_k` goes to `full[span, span]`, and `C_k' W_k` is taken off the system.

    Args:
      own: `X_k`, `[n, r]`.
      ridge: of its products, `[r]`.
      outer: `X_Sk`, `[u, r]`.
      shared: `X_kZ`, `[n, z]`.
      full: the inverse in the making.
      span: the leaf's customers in it.
      system: the separator's, `[s, s]`.
    """
    size = own.shape[0]
    forward = solve.over_ridge(own, ridge)
    within = full[span, span]
    solve.fill_and_invert(within, solve.gram_panels(forward, sp.csr_array(own.T), np.ones(size)))
    backward, products = sp.csr_array(forward.T), sp.csr_array(shared.T)
    tied_users, tied_items = (np.flatnonzero(np.diff(part.indptr)) for part in (outer, products))
    outer, products = outer[tied_users], products[tied_items]
    ties = np.concatenate([tied_users, tied_items + (len(system) - shared.shape[1])])

    def coupled(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`C' columns`, its customers' and its products' rows; C itself would be far denser than what it is made of."""
        columns = np.ascontiguousarray(columns)
        return outer @ (backward @ columns), products @ columns

    solved = solve.empty(len(ties), size)

    def fill(start: int, stop: int) -> None:
        solved[: len(tied_users), start:stop], solved[len(tied_users) :, start:stop] = coupled(within[:, start:stop])

    def take_off(start: int, stop: int) -> None:
        system[np.ix_(ties, ties[start:stop])] -= np.concatenate(coupled(solved[start:stop].T))

    solve.in_blocks(size, solve.THROUGH_SPARSE, fill)
    solve.in_blocks(len(ties), solve.THROUGH_SPARSE, take_off)
    return _Leaf(span, ties, solved)


def _invert_separator(system: np.ndarray, users: int) -> None:
    """The separator's system, its customers before its products, becomes its inverse T."""
    between, across, products = system[:users, :users], system[users:, :users], system[users:, users:]
    np.negative(products, out=products)
    solve.invert(products)
    pulled = products @ across
    solve.add_lower(between, across.T, pulled)
    solve.invert(between)
    np.matmul(pulled, between, out=across)
    np.negative(products, out=products)
    solve.add_lower(products, across, pulled.T)
    solve.mirror(system)


def _assemble(full: np.ndarray, leaves: list[_Leaf], reduced: np.ndarray, separator: slice) -> None:
    """All of M, of which `full` holds the blocks `M_k`, from T, which is `reduced`.

    A pair of leaves goes through the ties of the one that has fewer. Every product is written where it belongs, as one
    as large would be new memory each time.
    """
    users = separator.stop - separator.start
    full[separator, separator] = reduced[:users, :users]
    for k, leaf in enumerate(leaves):
        reach = reduced[:, leaf.ties] @ leaf.solved  # T W_k', [s, n]
        np.negative(reach[:users], out=full[separator, leaf.span])
        for l, other in enumerate(leaves):
            if (len(other.ties), l) < (len(leaf.ties), k):
                if l > k:
                    np.matmul(other.solved.T, reach[other.ties], out=full[other.span, leaf.span])
                else:
                    np.matmul(reach[other.ties].T, other.solved, out=full[leaf.span, other.span])
        solve.add_lower(full[leaf.span, leaf.span], leaf.solved.T, reach[leaf.ties])
    solve.mirror(full)
