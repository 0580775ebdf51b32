"""Unreduced losses: one value per example.

Legend: B batch, I items, D latent.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def multinomial_nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
    r"""Negative multinomial log-likelihood `-sum_i x_i log softmax(logits)_i`. `[B, I], [B, I] -> [B]`.

    Liang et al. (2018), eq. 2, without the coefficient that does not depend on the parameters. It is linear in the
    targets, so a weight of an entry multiplies its target.

    >>> multinomial_nll(jnp.zeros((1, 4)), jnp.array([[1.0, 0.0, 0.0, 0.0]])).round(4)
    Array([1.3863], dtype=float32)
    """
    chex.assert_equal_shape([logits, targets])
    log_normaliser = jax.nn.logsumexp(logits, axis=1)
    return targets.sum(1) * log_normaliser - (targets * logits).sum(1)


def bernoulli_nll(logits: jax.Array, targets: jax.Array, weight: jax.Array | float = 1.0) -> jax.Array:
    """Binary cross-entropy summed over items, targets in [0, 1]. `[B, I], [B, I] -> [B]`. Liang et al. 2018, eq. 4.

    `weight`: of each entry, `[B, I]`, or of all.
    """
    chex.assert_equal_shape([logits, targets])
    return (weight * (jax.nn.softplus(logits) - targets * logits)).sum(1)


def squared_error(outputs: jax.Array, targets: jax.Array, weight: jax.Array | float = 1.0) -> jax.Array:
    """Squared error summed over items. `[B, I], [B, I] -> [B]`. Divide by I for the MSE of one example.

    `weight`: of each entry, `[B, I]`, or of all.
    """
    chex.assert_equal_shape([outputs, targets])
    return (weight * jnp.square(outputs - targets)).sum(1)


def kl_to_standard_normal(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """KL( N(mean, exp(log_var)) || N(0, 1) ), summed over the latent dimensions. `[B, D], [B, D] -> [B]`.

    Kingma and Welling (2014), appendix B. Summed, not averaged, over D: averaging divides the weight of the prior by D.

    >>> kl_to_standard_normal(jnp.zeros((1, 3)), jnp.zeros((1, 3)))
    Array([0.], dtype=float32)
    """
    chex.assert_equal_shape([mean, log_var])
    return 0.5 * (jnp.square(mean) + jnp.exp(log_var) - 1.0 - log_var).sum(1)
