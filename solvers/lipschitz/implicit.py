"""Implicit (equilibrium) networks z = phi(A z + B x + b), y = C z: reading, well-posedness, and their form.

With slopes phi in [p - r, p + r] the increments are dz = p dv + r w, |w| <= |dv|, dv = A dz + B dx, so that
dv = M (A r w + B dx) with M = (I - A p)^-1. M is enclosed: for X near M and E = I - X (I - A p) with |E| < 1 in the
row-sum norm, M - X = (I - E)^-1 E X.

A solution z exists and is unique for every x if M exists and some diagonal S > 0 has |S C' S^-1| < 1 for C' = M A r
(over the rows with r > 0): then w -> psi(C' w + ...) with psi 1-Lipschitz in every entry is a contraction in the norm
|S w|. For slopes in [0, 1] and S = I this is I - A + (I - A)^T > 0, the condition of
Winston and Kolter 2020, "Monotone operator equilibrium networks"; see also Revay et al. 2020, theorem 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.lipschitz.form import Floats, Form, Matrix
from verinet.solvers.lipschitz.norms import matrix_norm
from verinet.solvers.lipschitz.scaling import contraction_scale
from verinet.solvers.lipschitz.sectors import sector

from verinet.errors import ModelError, UsageError
from verinet.numerics.rounding import gamma
from verinet.ops.activations import find
from verinet.ops.activations.registry import table
from verinet.ops.scalar import Elementwise
from verinet.ops.scalar_function import ScalarFunction

SETTLING = 500  # iterations of `evaluate`
_LOOSE = 1 + 1e-10
_ARRAYS = ("A", "B", "C", "b", "activation")


@dataclass(frozen=True)
class ImplicitModel:
    """z = phi(A z + B x + b), y = C z: A (m, m), B (m, inputs), C (outputs, m), b (m,), `activation` by its name.

    Raises `ModelError` for shapes that do not fit, numbers that are not finite, or an unknown activation.
    """

    A: Floats
    B: Floats
    C: Floats
    b: Floats
    activation: str = "relu"
    where: str = "the given implicit model"

    def __post_init__(self) -> None:
        for name in ("A", "B", "C", "b"):
            array = np.array(getattr(self, name))
            if array.dtype.kind not in "fiu":
                raise ModelError(f"{name} holds no real numbers", where=self.where, hint="store float arrays")
            wide = array.astype(np.float64)
            if not np.isfinite(wide).all():
                raise ModelError(f"{name} has an entry that is not finite", where=self.where)
            object.__setattr__(self, name, wide.reshape(-1) if name == "b" else wide)
        self._check_shapes()
        self.function()

    def _check_shapes(self) -> None:
        for name in ("A", "B", "C"):
            if getattr(self, name).ndim != 2:
                raise ModelError(f"{name} is no matrix: shape {getattr(self, name).shape}", where=self.where)
        m = self.A.shape[0]
        wrong = {
            "A": self.A.shape != (m, m),
            "B": self.B.shape[0] != m,
            "C": self.C.shape[1] != m,
            "b": self.b.shape != (m,),
        }
        for name, bad in wrong.items():
            if bad:
                shape = getattr(self, name).shape
                raise ModelError(
                    f"{name} of shape {shape} does not fit {m} hidden units (the rows of A)",
                    where=self.where,
                    hint="A is (m, m), B (m, inputs), C (outputs, m), b (m,)",
                )

    @property
    def input_size(self) -> int:
        return int(self.B.shape[1])

    @property
    def output_size(self) -> int:
        return int(self.C.shape[0])

    def evaluate(self, x: Tensor) -> Tensor:
        """Outputs (batch, outputs) for inputs (batch, inputs), by damped iteration up to rounding; differentiable."""
        op = Elementwise(self.function(), 1)
        a, b, c, bias = (torch.from_numpy(t) for t in (self.A, self.B, self.C, self.b))
        drive = x @ b.T + bias
        z = torch.zeros_like(drive)
        for _ in range(SETTLING):
            new = op.forward(z @ a.T + drive)
            step = float((new - z).detach().abs().max()) if new.numel() else 0.0
            z = 0.3 * z + 0.7 * new
            if step <= 1e-14 * (1 + float(z.detach().abs().max())):
                break
        return z @ c.T

    def function(self) -> ScalarFunction:
        """The activation's record."""
        plain = self.activation.replace("_", "").lower()
        names = {name.lower(): name for name in table()}
        found = find(names[plain], {}) if plain in names else None
        if found is None:
            raise ModelError(
                f"the activation '{self.activation}' is not known",
                where=self.where,
                hint="use the name of an ONNX activation, such as relu, tanh, sigmoid, leakyrelu",
            )
        return found


@dataclass(frozen=True)
class WellPosed:
    """The certificate that z is unique: `norm` < 1 bounds |S C' S^-1| for the positive diagonal S, `scale`."""

    norm: float
    scale: Floats


def load_implicit(path: str | Path) -> ImplicitModel:
    """Read A, B, C, b and `activation` (default relu) from an .npz file.

    `UsageError` for a missing file, `ModelError` for missing arrays and everything `ImplicitModel` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise ModelError("not an .npz file of plain arrays", where=str(path), hint=str(error)) from error
    except Exception as error:  # zipfile reports damage with its own types
        raise ModelError("the .npz file is damaged", where=str(path), hint=str(error)) from error
    missing = [name for name in ("A", "B", "C") if name not in arrays]
    if missing:
        raise ModelError(
            f"the file lacks {', '.join(missing)}",
            where=str(path),
            hint=f"an implicit model has the arrays {', '.join(_ARRAYS)}; found: {', '.join(arrays) or 'none'}",
        )
    bias = arrays.get("b", np.zeros(np.asarray(arrays["A"]).shape[:1]))
    return ImplicitModel(arrays["A"], arrays["B"], arrays["C"], bias, _text(arrays, path), str(path))


def _text(arrays: dict[str, Any], path: Path) -> str:
    name = np.asarray(arrays.get("activation", "relu"))
    if name.size != 1 or name.dtype.kind not in "US":
        raise ModelError("`activation` is no single name", where=str(path), hint="store a string such as relu")
    return str(name.reshape(()).astype(np.str_))


def implicit_form(model: ImplicitModel) -> Form:
    """The form of an implicit model, with the enclosure of (I - A p)^-1 in the radii.

    Raises `ModelError` where the inverse cannot be enclosed, or the model cannot be shown to be well posed.
    """
    return certified_form(model)[0]


def certified_form(model: ImplicitModel) -> tuple[Form, WellPosed]:
    """The form of an implicit model and the certificate that it is well posed; errors as for `implicit_form`."""
    form = _form(model)
    return form, well_posed(model, form)


def _form(model: ImplicitModel) -> Form:
    m = model.A.shape[0]
    slopes = sector(Elementwise(model.function(), 1), None, None, (m,), f"activation of {model.where}")
    centre, radius = (t.numpy() for t in slopes.disc())
    inverse = _enclosed_inverse(model, centre)
    active = np.flatnonzero(radius)
    hidden_w = _product(Matrix(model.A), Matrix(np.diag(radius)[:, active]))
    v_w, v_x = _product(inverse, hidden_w), _product(inverse, Matrix(model.B))
    outward = _product(Matrix(model.C), Matrix(np.diag(centre)))
    cy = _sum(_product(outward, v_w), _product(Matrix(model.C), Matrix(np.diag(radius)[:, active])))
    blocks = np.arange(active.size, dtype=np.int64)
    return Form(
        c=_picked(v_w, active),
        d=_picked(v_x, active),
        cy=cy,
        dy=_product(outward, v_x),
        v_block=blocks,
        w_block=blocks,
        layer=np.zeros(active.size, dtype=np.int64),
        labels=(model.activation,) if active.size else (),
        implicit=True,
    )


def _picked(matrix: Matrix, rows: Any) -> Matrix:
    return Matrix(matrix.value[rows], None if matrix.radius is None else matrix.radius[rows])


def _product(left: Matrix, right: Matrix) -> Matrix:
    """left @ right with |fl(LR) - LR| <= gamma |L||R|, and the radii of both handed on."""
    a, b = np.abs(left.value), np.abs(right.value)
    charge = gamma(left.value.shape[1] + 4, torch.float64)
    radius = a @ b * charge
    if left.radius is not None:
        radius = radius + left.radius @ (b if right.radius is None else b + right.radius)
    if right.radius is not None:
        radius = radius + a @ right.radius
    radius = radius * (1 + 4 * charge) * _LOOSE
    return Matrix(left.value @ right.value, np.where(radius > 0, radius + 1e-280, 0.0))


def _sum(left: Matrix, right: Matrix) -> Matrix:
    value = left.value + right.value
    radius = np.abs(value) * 2.0**-52
    for part in (left, right):
        radius = radius if part.radius is None else radius + part.radius
    return Matrix(value, radius * _LOOSE)


def _enclosed_inverse(model: ImplicitModel, centre: Floats) -> Matrix:
    """(I - A diag(centre))^-1 with a rigorous radius; see the module text."""
    m = model.A.shape[0]
    product = _product(Matrix(model.A), Matrix(np.diag(centre)))
    matrix = _sum(Matrix(np.eye(m)), Matrix(-product.value, product.radius))
    try:
        near: Floats = np.asarray(np.linalg.inv(matrix.value), dtype=np.float64)
    except np.linalg.LinAlgError:
        near = np.full((m, m), np.nan)
    if not np.isfinite(near).all():
        raise _ill_posed(model, "I - A p is singular for the mean slope p of its activation")
    residual = _sum(Matrix(np.eye(m)), _negated(_product(Matrix(near), matrix)))
    size = np.abs(residual.value) + (0.0 if residual.radius is None else residual.radius)
    error = float(size.sum(1).max(initial=0.0)) * (1 + 2 * gamma(m + 4, torch.float64)) * _LOOSE
    if not error < 0.5:
        raise _ill_posed(model, "I - A p is too close to singular to be inverted with certainty")
    column: Floats = np.abs(near).max(0, initial=0.0)
    radius = np.broadcast_to(column * (error / (1 - error)) * _LOOSE, (m, m))
    return Matrix(near, np.ascontiguousarray(radius) + 1e-280)


def _negated(matrix: Matrix) -> Matrix:
    return Matrix(-matrix.value, matrix.radius)


def _ill_posed(model: ImplicitModel, reason: str) -> ModelError:
    return ModelError(
        f"the implicit model is not shown to be well posed: {reason}",
        where=model.where,
        hint="a unique solution is certain if |A| times the largest slope is below 1, or, for slopes in [0, 1], "
        "if I - A + (I - A)^T is positive definite",
    )


def well_posed(model: ImplicitModel, form: Form | None = None) -> WellPosed:
    """The certificate that the equation has exactly one solution for every x; `ModelError` where none was found."""
    form = _form(model) if form is None else form
    scale = contraction_scale(form.c.value)
    norm = contraction_norm(form.c, scale)
    if not norm < 1:
        raise _ill_posed(model, f"the best scaled norm found is {norm:.6g}, and it has to be below 1")
    return WellPosed(norm, scale)


def contraction_norm(matrix: Matrix, scale: Floats) -> float:
    """At least the 2-norm of S M S^-1 for S = diag(scale); scaling rounds each entry twice."""
    value: Floats = matrix.value * scale[:, None] / scale[None, :]
    radius = np.abs(value) * 2.0**-51 + 1e-280
    if matrix.radius is not None:
        radius = radius + matrix.radius * scale[:, None] / scale[None, :] * _LOOSE
    return matrix_norm(Matrix(value, radius))
