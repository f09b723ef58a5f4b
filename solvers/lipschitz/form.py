"""The one form of every network for Lipschitz bounds: linear maps around norm-bounded blocks.

Increments of a network between two inputs obey `v = c w + d x`, `y = cy w + dy x` with `||w_g|| <= ||v_g||` for
every block g. An activation enters as its fixed linear part plus a norm-bounded part: `dphi = p dv + r w`, `q dv` the
bounding vector. A slope in [a, b] gives p = (a+b)/2, r = (b-a)/2, q = 1; MaxMin, GroupSort, Householder, |.|, CReLU and
max fit the same way (Pauli et al. 2024, "Novel Quadratic Constraints for Extending LipSDP beyond Slope-Restricted
Activations", with the preserved directions eliminated instead of multiplied).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Matrix:
    """A float64 matrix and an elementwise bound on its distance from the true real matrix (0 where exact).

    `value` (rows, columns); `radius` has the same shape, or is None when `value` is exact.
    """

    value: Floats
    radius: Floats | None = None


@dataclass(frozen=True)
class Form:
    """`v = c w + d x`, `y = cy w + dy x`, `||w_g|| <= ||v_g||` for every block g.

    Shapes: c (q, m), d (q, n), cy (outputs, m), dy (outputs, n). `v_block` (q,) and `w_block` (m,) name the block of
    every row of v and entry of w, 0 .. blocks-1 without gaps; scalar blocks have one of each, GroupSort of size k has
    k-1 of each, a max-pool window may have different numbers. `layer` (blocks,) is the depth of each block: c couples a
    block only to blocks of smaller depth, unless `implicit`. `labels` names the graph node of each block's layer.
    """

    c: Matrix
    d: Matrix
    cy: Matrix
    dy: Matrix
    v_block: Ints
    w_block: Ints
    layer: Ints
    labels: tuple[str, ...] = ()
    implicit: bool = False

    @property
    def blocks(self) -> int:
        return len(self.layer)


@dataclass(frozen=True)
class Activation:
    """`dphi = p dv + r w` with `||w_g|| <= ||(q dv)_g||`: one nonlinear layer of a chain.

    Sparse or dense float64 matrices: p (outputs, inputs), r (outputs, m), q (k, inputs); block numbers as in `Form`,
    counted from 0 within the layer. `slopes` holds (low, high) per neuron when the layer is elementwise, else None.
    """

    p: Any
    r: Any
    q: Any
    v_block: Ints
    w_block: Ints
    label: str = ""
    slopes: tuple[Floats, Floats] | None = None


@dataclass(frozen=True)
class Chain:
    """y = W_L phi_L(... phi_1(W_0 x)): `len(weights) == len(activations) + 1`. Biases do not matter."""

    weights: tuple[Matrix, ...]
    activations: tuple[Activation, ...]
