"""Implicit models: reading, well-posedness, and forms that contain the true Jacobians."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from verinet.solvers.lipschitz.form import Floats
from verinet.solvers.lipschitz.implicit import ImplicitModel, implicit_form, load_implicit, well_posed

from verinet.errors import ModelError, UsageError


def _model(size: int, norm: float, activation: str = "relu", seed: int = 0, inputs: int = 3) -> ImplicitModel:
    draw = np.random.default_rng(seed)
    a = draw.normal(size=(size, size))
    a *= norm / np.linalg.norm(a, 2)
    return ImplicitModel(
        a, draw.normal(size=(size, inputs)), draw.normal(size=(2, size)), draw.normal(size=size), activation
    )


def _solve(model: ImplicitModel, x: Floats, steps: int = 4000) -> Floats:
    """The solution z by damped iteration; raises if it is none."""
    import torch

    function = model.function()
    z = np.zeros(model.A.shape[0])
    for _ in range(steps):
        z = 0.5 * z + 0.5 * function.at(torch.from_numpy(model.A @ z + model.B @ x + model.b)).numpy()
    residual = z - function.at(torch.from_numpy(model.A @ z + model.B @ x + model.b)).numpy()
    assert np.abs(residual).max() < 1e-12
    return z


@pytest.mark.parametrize("activation", ["relu", "tanh", "leakyrelu", "Leaky_Relu", "abs", "sigmoid"])
def test_increments_obey_the_form(activation: str) -> None:
    model = _model(5, 0.7, activation)
    form = implicit_form(model)
    assert form.implicit and form.blocks == 5 and form.labels == (activation,)
    import torch

    draw = np.random.default_rng(1)
    function = model.function()
    for _ in range(30):
        x, y = draw.normal(size=(2, 3)) * 2
        zx, zy = _solve(model, x), _solve(model, y)
        before = [model.A @ z + model.B @ t + model.b for z, t in ((zx, x), (zy, y))]
        dv = before[0] - before[1]
        dz = function.at(torch.from_numpy(before[0])).numpy() - function.at(torch.from_numpy(before[1])).numpy()
        low, high = _slopes(model)
        w = (dz - 0.5 * (low + high) * dv) / (0.5 * (high - low))
        assert (np.abs(w) <= np.abs(dv) * (1 + 1e-9)).all()
        assert np.abs(form.c.value @ w + form.d.value @ (x - y) - dv).max() < 1e-9
        assert np.abs(form.cy.value @ w + form.dy.value @ (x - y) - model.C @ (zx - zy)).max() < 1e-9


def _slopes(model: ImplicitModel) -> tuple[float, float]:
    low, high = model.function().slope_range
    if "eaky" in model.activation:
        return 0.009999999776482582, 1.0
    return low, high


def test_radii_cover_the_exact_inverse() -> None:
    """Against rational arithmetic, for slopes in [0, 1]."""
    model = _model(4, 0.9, seed=3)
    form = implicit_form(model)
    half = Fraction(1, 2)
    a = [[Fraction(float(x)) for x in row] for row in model.A]
    matrix = [[Fraction(int(i == j)) - half * a[i][j] for j in range(4)] for i in range(4)]
    inverse = _inverse(matrix)
    inner = {"c": [[half * x for x in row] for row in a], "d": [[Fraction(float(x)) for x in row] for row in model.B]}
    for matrix_name, right in inner.items():
        found = getattr(form, matrix_name)
        exact = _times(inverse, right)
        assert found.radius is not None and found.radius.max() < 1e-12
        for i, row in enumerate(exact):
            for j, true in enumerate(row):
                assert abs(Fraction(float(found.value[i, j])) - true) <= Fraction(float(found.radius[i, j]))


def _times(a: list[list[Fraction]], b: list[list[Fraction]]) -> list[list[Fraction]]:
    columns = list(zip(*b, strict=True))
    return [[sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0)) for column in columns] for row in a]


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    size = len(matrix)
    rows = [row + [Fraction(int(i == j)) for j in range(size)] for i, row in enumerate(matrix)]
    for i in range(size):
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for j in range(size):
            if j != i:
                rows[j] = [x - rows[j][i] * y for x, y in zip(rows[j], rows[i], strict=True)]
    return [row[size:] for row in rows]


def test_well_posed_beyond_a_small_norm() -> None:
    """I - A monotone suffices for slopes in [0, 1], however large A; and so does a scaling of the units."""
    draw = np.random.default_rng(2)
    g, s = draw.normal(size=(2, 6, 6))
    monotone = np.eye(6) - (0.05 * np.eye(6) + g @ g.T + 5 * (s - s.T))
    model = ImplicitModel(monotone, np.ones((6, 1)), np.ones((1, 6)), np.zeros(6))
    assert np.linalg.norm(monotone, 2) > 5
    found = well_posed(model)
    assert found.norm < 1 and (found.scale == 1).all()
    lopsided = np.triu(draw.normal(size=(6, 6)) * 50, 1)  # nilpotent: any size is fine once scaled
    found = well_posed(ImplicitModel(lopsided, np.ones((6, 1)), np.ones((1, 6)), np.zeros(6), "tanh"))
    assert found.norm < 1 and found.scale.max() / found.scale.min() > 10


@pytest.mark.parametrize("activation", ["relu", "abs", "tanh"])
def test_ill_posed_models_are_refused(activation: str) -> None:
    """z = act(2 z + x) has no solution or several; so has anything the certificate lets through, it must not."""
    for a in (np.array([[2.0]]), np.array([[1.0]]), np.eye(3) * 1.5):
        model = ImplicitModel(a, np.ones((len(a), 1)), np.ones((1, len(a))), np.zeros(len(a)), activation)
        with pytest.raises(ModelError, match="well posed"):
            implicit_form(model)


def test_certified_models_do_have_one_solution_on_every_branch() -> None:
    """ReLU: z = relu(A z + q) has one solution for every q iff I - A restricted to all subsets has determinant > 0."""
    draw = np.random.default_rng(5)
    outcomes = set()
    for _ in range(200):
        a = draw.normal(size=(3, 3)) * draw.uniform(0.3, 1.5)
        model = ImplicitModel(a, np.ones((3, 1)), np.ones((1, 3)), np.zeros(3))
        subsets = [s for r in (1, 2, 3) for s in itertools.combinations(range(3), r)]
        unique = all(np.linalg.det((np.eye(3) - a)[np.ix_(s, s)]) > 0 for s in subsets)
        try:
            implicit_form(model)
        except ModelError:
            outcomes.add("refused")
            continue
        assert unique
        outcomes.add("proved")
    assert outcomes == {"refused", "proved"}


def _stored(folder: Path, **arrays: Any) -> Path:
    path = folder / "model.npz"
    np.savez(path, **arrays)
    return path


def _arrays(**changes: Any) -> dict[str, Any]:
    arrays: dict[str, Any] = {"A": np.eye(2) * 0.5, "B": np.ones((2, 3)), "C": np.ones((1, 2)), "b": np.zeros(2)}
    arrays.update({"activation": "relu", **changes})
    return {name: value for name, value in arrays.items() if value is not None}


def test_files_are_read(tmp_path: Path) -> None:
    model = load_implicit(_stored(tmp_path, **_arrays(b=None, activation=None)))
    assert model.activation == "relu" and not model.b.any() and (model.input_size, model.output_size) == (3, 1)
    assert load_implicit(_stored(tmp_path, **_arrays(activation=np.array([b"tanh"])))).activation == "tanh"
    single = load_implicit(_stored(tmp_path, **_arrays(A=np.float32([[0.1, 0], [0, 0.2]]))))
    assert single.A.dtype == np.float64 and single.A[0, 0] == np.float32(0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"A": None}, "lacks A"),
        ({"B": None, "C": None}, "lacks B, C"),
        ({"A": np.ones((2, 3))}, "A of shape"),
        ({"B": np.ones((3, 3))}, "B of shape"),
        ({"C": np.ones((1, 3))}, "C of shape"),
        ({"b": np.zeros(3)}, "b of shape"),
        ({"C": np.ones(2)}, "no matrix"),
        ({"A": np.array([[np.nan, 0], [0, 0]])}, "not finite"),
        ({"A": np.array([["a", "b"], ["c", "d"]])}, "real numbers"),
        ({"activation": "swoosh"}, "swoosh"),
        ({"activation": np.ones(2)}, "single name"),
        ({"activation": "exp"}, "finite slope"),
    ],
)
def test_wrong_files_are_explained(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = _stored(tmp_path, **_arrays(**changes))
    with pytest.raises(ModelError, match=words) as caught:
        implicit_form(load_implicit(path))
    assert "model.npz" in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_implicit(tmp_path / "missing.npz")
    for content in (b"", b"not a zip file", b"PK\x03\x04 damaged"):
        path = tmp_path / "broken.npz"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"broken\.npz"):
            load_implicit(path)
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelError):
        load_implicit(tmp_path / "pickled.npy")


@pytest.mark.bench
def test_published_implicit_model(bench_folder: Path) -> None:
    model = load_implicit(bench_folder / "lipschitz" / "implicit_relu_4_12_2.npz")
    form = implicit_form(model)
    assert form.blocks == 12 and form.dy.value.shape == (2, 4)
    assert well_posed(model).norm < 0.5
    worst = 0.0
    for signs in itertools.islice(itertools.product((-1.0, 1.0), repeat=12), 0, None, 3):
        scale = np.diag(signs)
        inner = np.linalg.solve(np.eye(12) - form.c.value @ scale, form.d.value)
        worst = max(worst, float(np.linalg.norm(form.dy.value + form.cy.value @ scale @ inner, 2)))
    assert 1.5 < worst <= 1.85718248 * (1 + 1e-8)
