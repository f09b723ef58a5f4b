"""Forms and chains as cone data for the optimisers, and block numbers that both share.

Elementwise radii of the matrices are left out: a solver only proposes multipliers, and the certificate charges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from verinet.solvers.lipschitz.exponents import Norm, exponents_of
from verinet.solvers.lipschitz.form import Chain, Floats, Form, Ints
from verinet.solvers.sdp.cone import ConeProblem
from verinet.solvers.sdp.layered import Layer, LayeredProblem

from verinet.errors import UsageError

DENSE_LIMIT = 20_000  # entries w and x together; a matrix of that order takes 3.2 GB


def cone_problem(form: Form, norm: Norm = 2.0) -> ConeProblem:
    """The cone data of a form. `norm` is 2, infinity (one output) or (p, q); UsageError for other norms."""
    exponents = exponents_of(norm, len(form.cy.value))
    return ConeProblem(
        np.hstack([form.c.value, form.d.value]),
        np.hstack([form.cy.value, form.dy.value]),
        form.v_block,
        form.w_block,
        form.layer,
        exponents.p,
        exponents.q,
        form.implicit,
    )


def layered_problem(chain: Chain, norm: Norm = 2.0, shared: Sequence[Ints | None] | None = None) -> LayeredProblem:
    """The cone data of a chain, layer by layer.

    `shared` gives for each activation the numbers of blocks with one multiplier (per channel, say), or None. Blocks of
    the result count through the layers from the input on. UsageError where shapes or norms do not fit.
    """
    weights = tuple(matrix.value for matrix in chain.weights)
    exponents = exponents_of(norm, weights[-1].shape[0])
    groups = [None] * len(chain.activations) if shared is None else list(shared)
    if len(groups) != len(chain.activations):
        raise UsageError(f"{len(groups)} sharing patterns for {len(chain.activations)} layers")
    layers = tuple(
        Layer(a.p, a.r, a.q, a.v_block, a.w_block, group) for a, group in zip(chain.activations, groups, strict=True)
    )
    return LayeredProblem(weights, layers, exponents.p, exponents.q)


def chain_cone(chain: Chain, norm: Norm = 2.0) -> ConeProblem:
    """The same cone data as of the network's form, with blocks counted as in `layered_problem`.

    Composes the layers densely: raises UsageError where w and x have more than `DENSE_LIMIT` entries together.
    """
    channels = sum(len(a.w_block) for a in chain.activations)
    inputs = chain.weights[0].value.shape[1]
    if channels + inputs > DENSE_LIMIT:
        raise UsageError(
            f"{channels} channels and {inputs} inputs are too many for one dense matrix",
            hint="use the layer by layer first-order method",
        )
    state = np.hstack([np.zeros((inputs, channels)), np.eye(inputs)])
    rows, v_block, w_block, depth = [], [], [], []
    blocks = column = 0
    for level, (weight, act) in enumerate(zip(chain.weights, chain.activations, strict=False)):
        inner = _dense(weight.value @ state)
        rows.append(_dense(act.q @ inner))
        state = _dense(act.p @ inner)
        width = len(act.w_block)
        state[:, column : column + width] += _dense(act.r)
        v_block.append(act.v_block + blocks)
        w_block.append(act.w_block + blocks)
        count = int(act.v_block.max()) + 1 if len(act.v_block) else 0
        depth.append(np.full(count, level))
        blocks, column = blocks + count, column + width
    exponents = exponents_of(norm, chain.weights[-1].value.shape[0])
    m = np.vstack([np.zeros((0, channels + inputs)), *rows])
    my = _dense(chain.weights[-1].value @ state)
    numbers = [np.concatenate([np.zeros(0), *part]).astype(np.int64) for part in (v_block, w_block, depth)]
    return ConeProblem(m, my, numbers[0], numbers[1], numbers[2], exponents.p, exponents.q)


def _dense(values: Any) -> Floats:
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float64)
