"""Exact values: enumeration against brute force, branch and bound against enumeration, proofs against both."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verinet.solvers.lipschitz.cone import cone_problem
from verinet.solvers.lipschitz.exact import Search, exact_fgl
from verinet.solvers.lipschitz.form import Floats, Form, Matrix
from verinet.solvers.lipschitz.vertices import Vertices, fixed, ordered
from verinet.solvers.sdp.interior import interior_point
from verinet.solvers.sdp.start import feasible_start

from tests.kits.lipschitz_networks import form_of, network, sampled
from verinet.errors import CertificationError, UsageError

SCALAR = ["relu", "tanh", "leaky", "abs", "maxmin", "householder"]


def multipliers(form: Form) -> Floats:
    return interior_point(cone_problem(form), tolerance=1e-6).multipliers


def brute(form: Form, order: float = 2) -> float:
    """The largest norm over all signs, one matrix inverse at a time."""
    best = 0.0
    for signs in product([-1.0, 1.0], repeat=form.blocks):
        delta = np.diag(signs)
        inner = np.linalg.inv(np.eye(form.blocks) - form.c.value @ delta)
        best = max(best, float(np.linalg.norm(form.dy.value + form.cy.value @ delta @ inner @ form.d.value, order)))
    return best


def looped(seed: int) -> Form:
    """An implicit form with 5 blocks and a contracting loop."""
    draw = np.random.default_rng(seed)
    c = draw.standard_normal((5, 5))
    c *= 0.6 / np.linalg.norm(c, 2)
    parts = [Matrix(draw.standard_normal(shape)) for shape in ((5, 3), (2, 5), (2, 3))]
    numbers = np.arange(5)
    return Form(Matrix(c), *parts, numbers, numbers, np.zeros(5, dtype=np.int64), implicit=True)


@pytest.mark.parametrize("kind", SCALAR)
def test_enumeration_finds_the_largest_vertex(kind: str) -> None:
    net = network((3, 4, 4, 2), kind, 1)
    form = form_of(net.chain)
    found = exact_fgl(form)
    assert found.value == pytest.approx(brute(form), rel=1e-12)
    assert found.complete and found.value <= found.upper <= found.value * (1 + 1e-8)
    assert sampled(net) <= found.upper <= interior_point(cone_problem(form)).bound * (1 + 1e-8)


@pytest.mark.parametrize("kind", ["relu", "maxmin"])
def test_enumeration_for_the_largest_entry_norm(kind: str) -> None:
    net = network((3, 4, 4, 2), kind, 2)
    found = exact_fgl(form_of(net.chain), norm=math.inf)
    assert found.value == pytest.approx(brute(form_of(net.chain), math.inf), rel=1e-12)
    assert sampled(net, order=math.inf) <= found.upper <= found.value * (1 + 1e-8)


@pytest.mark.parametrize("kind", ["relu", "leaky", "householder"])
def test_branch_and_bound_agrees_with_enumeration(kind: str) -> None:
    form = form_of(network((4, 8, 8, 2), kind, 3).chain)
    whole = exact_fgl(form)
    start = multipliers(form)
    found = exact_fgl(form, bound=multipliers, start=start, search=Search(1e-6, 4))
    assert found.complete
    assert whole.value * (1 - 1e-6) <= found.upper <= whole.value * (1 + 3e-6)
    signs = found.vertex[None]
    vertices = Vertices(form)
    assert vertices.norms(vertices.jacobians(signs))[0] == pytest.approx(found.value, rel=1e-9)


def test_branch_and_bound_stopped_early_is_still_a_bound() -> None:
    form = form_of(network((5, 12, 12, 3), "relu", 4).chain)
    start = multipliers(form)
    relaxed = interior_point(cone_problem(form)).bound
    late = Search(0.0, 4, deadline=time.perf_counter())
    found = exact_fgl(form, bound=multipliers, start=start, search=late)
    assert not found.complete and found.value <= found.upper <= relaxed * (1 + 1e-6)
    soon = Search(0.0, 4, time.perf_counter() + 0.3)
    worse = exact_fgl(form, bound=lambda part: np.full(part.blocks, math.nan), start=start, search=soon)
    best = exact_fgl(form, bound=multipliers, start=start, search=Search(1e-3, 12))
    assert worse.upper >= best.value * (1 - 1e-9), "a useless bound function costs tightness only"


@given(seed=st.integers(0, 10**6), power=st.integers(-40, 40))
def test_upper_ends_hold_for_every_vertex(seed: int, power: int) -> None:
    net = network((3, 3, 3, 2), "relu", seed, 2.0 ** (power / 3))
    form = form_of(net.chain)
    found = exact_fgl(form)
    assert brute(form) <= found.upper * (1 + 1e-13)
    assert found.upper <= found.value * (1 + 1e-8)


def test_radii_widen_the_upper_end() -> None:
    draw = np.random.default_rng(0)
    form = form_of(network((3, 4, 4, 2), "relu", 5).chain)
    parts = {name: m for name, m in vars(form).items() if isinstance(m, Matrix)}
    wide = replace(form, **{name: Matrix(m.value, 1e-3 * np.abs(m.value)) for name, m in parts.items()})
    upper = exact_fgl(wide).upper
    assert upper > exact_fgl(form).upper * (1 + 1e-4)
    for _ in range(10):
        moved = {
            name: Matrix(m.value * (1 + 1e-3 * draw.choice([-1.0, 1.0], m.value.shape))) for name, m in parts.items()
        }
        assert brute(replace(form, **moved)) <= upper


@pytest.mark.parametrize("seed", range(3))
def test_implicit_forms(seed: int) -> None:
    form = looped(seed)
    start = feasible_start(cone_problem(form)).multipliers
    found = exact_fgl(form, start=start)
    assert found.value == pytest.approx(brute(form), rel=1e-10)
    assert found.value <= found.upper <= found.value * (1 + 1e-8)
    with pytest.raises(UsageError, match="feasible multipliers"):
        exact_fgl(form)


def test_implicit_forms_need_proof_of_being_well_posed() -> None:
    form = looped(0)
    loud = replace(form, c=Matrix(form.c.value * 4))
    with pytest.raises(CertificationError, match="well-posed"):
        exact_fgl(loud, start=np.ones(5))


@given(seed=st.integers(0, 10**6), block=st.integers(0, 4), sign=st.sampled_from([-1.0, 1.0]))
def test_fixing_a_block_keeps_the_jacobians(seed: int, block: int, sign: float) -> None:
    draw = np.random.default_rng(seed)
    form = looped(seed)
    signs = draw.choice([-1.0, 1.0], 5)
    signs[block] = sign
    part = fixed(form, block, sign)
    whole, rest = Vertices(form), Vertices(part)
    left = whole.jacobians(signs[None]).jacobians
    right = rest.jacobians(np.delete(signs, block)[None]).jacobians
    assert right == pytest.approx(left, abs=1e-12 * float(np.abs(left).max()) + 1e-13)
    assert part.blocks == 4 and part.dy.radius is not None and part.dy.radius.max() < 1e-13


def test_blocks_must_be_scalar_and_arguments_complete() -> None:
    with pytest.raises(UsageError, match="scalar blocks"):
        exact_fgl(form_of(network((3, 6, 2), "sort3").chain))
    form = form_of(network((3, 6, 2), "relu").chain)
    with pytest.raises(UsageError, match="too many to enumerate"):
        exact_fgl(form, search=Search(enumerate_up_to=3))
    with pytest.raises(UsageError, match="norm 2 or infinity"):
        exact_fgl(form, norm=1.0)


def test_blocks_in_any_order() -> None:
    form = form_of(network((3, 4, 4, 2), "relu", 6).chain)
    order = np.random.default_rng(1).permutation(8)
    names = np.argsort(order)
    mixed = replace(form, v_block=names[form.v_block], w_block=names[form.w_block], layer=form.layer[order])
    assert ordered(mixed).layer.tolist() == mixed.layer.tolist()
    assert exact_fgl(mixed).value == pytest.approx(exact_fgl(form).value, rel=1e-12)


def test_a_constant_network_has_value_zero() -> None:
    form = form_of(network((3, 4, 2), "relu", 6).chain)
    silent = replace(form, cy=Matrix(np.zeros((2, 4))), dy=Matrix(np.zeros((2, 3))))
    found = exact_fgl(silent)
    assert found.value == 0 and 0 <= found.upper < 1e-90


@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("implicit", [False, True])
def test_vertices_are_below_their_norm_and_not_below_less(norm: float, implicit: bool) -> None:
    """The check itself, on a bound made a little too small on purpose."""
    vertices = Vertices(looped(1) if implicit else form_of(network((3, 4, 4, 2), "relu", 7).chain), norm)
    for signs in vertices.signs():
        batch = vertices.jacobians(signs)
        for one, size in enumerate(vertices.norms(batch)):
            assert vertices.below(batch, size * (1 + 1e-9) + 2 * batch.error[one] + 1e-12)[one]
            assert not vertices.below(batch, size * (1 - 1e-9) - 1e-12)[one]


@pytest.mark.parametrize("implicit", [False, True])
def test_errors_of_jacobians_cover_the_radii(implicit: bool) -> None:
    draw = np.random.default_rng(3)
    form = ordered(looped(2) if implicit else form_of(network((3, 3, 3, 2), "relu", 8).chain))
    parts = {name: m for name, m in vars(form).items() if isinstance(m, Matrix)}
    wide = replace(form, **{name: Matrix(m.value, 1e-3 * np.abs(m.value)) for name, m in parts.items()})
    signs = draw.choice([-1.0, 1.0], (40, form.blocks))
    batch = Vertices(wide).jacobians(signs)
    block, sign = 1, 1.0
    small = fixed(wide, block, sign)
    for row in signs:
        moved = {n: Matrix(m.value * (1 + 1e-3 * draw.choice([-1.0, 1.0], m.value.shape))) for n, m in parts.items()}
        true = replace(form, **moved)
        off = Vertices(true).jacobians(signs).jacobians - batch.jacobians
        assert (np.linalg.norm(off, 2, axis=(1, 2)) <= batch.error).all()
        exact = fixed(true, block, sign)
        for name in parts:
            near, far = getattr(small, name), getattr(exact, name)
            assert near.radius is not None and (np.abs(near.value - far.value) <= near.radius + 1e-15).all()
        assert row.shape == (form.blocks,)
