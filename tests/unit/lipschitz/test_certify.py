"""Certificates: near the solver's value for good multipliers, valid or refused for any others."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verinet.solvers.lipschitz.certify import Certified, certify
from verinet.solvers.lipschitz.certify_chain import as_matrix, certify_chain, congruence, covers
from verinet.solvers.lipschitz.cone import cone_problem
from verinet.solvers.lipschitz.exponents import exponents_of, multiplier_norm_upper
from verinet.solvers.lipschitz.form import Chain, Floats, Form, Matrix
from verinet.solvers.lipschitz.gram import form_gram
from verinet.solvers.sdp.cone import Point, SdpResult
from verinet.solvers.sdp.interior import interior_point
from verinet.solvers.sdp.start import feasible_start

from tests.kits.lipschitz_networks import Network, form_of, network, product_bound, sampled
from verinet.errors import CertificationError, UsageError
from verinet.numerics.cholesky import spectral_norm_upper, verify_psd

KINDS = ["relu", "tanh", "leaky", "abs", "maxmin", "sort3", "sort4", "householder"]


def solved(form: Form, norm: float | tuple[float, float] = 2.0) -> SdpResult:
    # Much nearer to the optimum, rounding decides on which side of the cone's boundary the multipliers are.
    return interior_point(cone_problem(form, norm), tolerance=1e-8)


def garbage(kind: str, size: int, draw: np.random.Generator) -> Floats:
    """Multipliers that no solver should return."""
    values = draw.standard_normal(size)
    if kind == "huge":
        return np.abs(values) * 1e250
    if kind == "tiny":
        return np.abs(values) * 1e-250
    if kind == "decades":
        return 10.0 ** draw.uniform(-12, 12, size)
    if kind == "broken":
        return np.where(draw.random(size) < 0.5, draw.choice([math.nan, math.inf, -math.inf, 0.0, -1.0], size), values)
    return np.zeros(size) if kind == "zero" else values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("widths", [(4, 12, 3), (5, 12, 12, 12, 2)])
def test_good_multipliers_lose_next_to_nothing(kind: str, widths: tuple[int, ...]) -> None:
    net = network(widths, kind, 1)
    form = form_of(net.chain)
    result = solved(form)
    for certified in (certify(form, result.multipliers), certify_chain(net.chain, result.multipliers)):
        assert certified.upper <= result.bound * (1 + 1e-8)
        assert sampled(net) <= certified.upper
        assert certified.share == 0


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    wrong=st.sampled_from(["normal", "huge", "tiny", "decades", "broken", "zero"]),
)
def test_tampered_multipliers_never_prove_too_little(seed: int, kind: str, wrong: str) -> None:
    draw = np.random.default_rng(seed)
    net = network((3, 12, 12, 2), kind, seed)
    form, lower = form_of(net.chain), sampled(net, 60)
    multipliers = garbage(wrong, form.blocks, draw)
    assert certify_chain(net.chain, multipliers).upper >= lower
    start = feasible_start(cone_problem(form))
    assert lower <= certify(form, multipliers, start=start).upper <= certify(form, start).upper * (1 + 1e-9)
    try:
        alone = certify(form, multipliers)
    except CertificationError:
        return
    assert alone.upper >= lower


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS))
def test_slightly_wrong_multipliers_never_prove_too_little(seed: int, kind: str) -> None:
    """Around the optimum, where a sloppy certificate would accept: the bound may not fall below the optimum."""
    draw = np.random.default_rng(seed)
    form = form_of(network((3, 12, 12, 2), kind, seed % 5).chain)
    result = interior_point(cone_problem(form), tolerance=1e-8)
    moved = result.multipliers * (1 + 10 ** draw.uniform(-10, -1) * draw.standard_normal(form.blocks))
    certified = certify(form, moved, start=feasible_start(cone_problem(form)))
    assert certified.upper >= result.bound * (1 - result.gap - 1e-9)


def test_infeasible_multipliers_are_refused_or_mixed_with_the_start() -> None:
    form = form_of(network((4, 10, 10, 3), "leaky", 2).chain)
    result, start = solved(form), feasible_start(cone_problem(form))
    weak = result.multipliers * 0.7
    with pytest.raises(CertificationError, match="prove no Lipschitz bound"):
        certify(form, weak)
    mixed = certify(form, weak, start=start)
    assert 0 < mixed.share <= 1
    assert result.bound <= mixed.upper * (1 + 1e-9) <= certify(form, start).upper * (1 + 2e-9)


def test_radii_are_charged() -> None:
    """A bound over all matrices within the radii is at least the bound of each of them."""
    draw = np.random.default_rng(0)
    form = form_of(network((3, 6, 6, 2), "relu", 4).chain)
    parts = {name: m for name, m in vars(form).items() if isinstance(m, Matrix)}
    wide = replace(form, **{name: Matrix(m.value, 1e-3 * np.abs(m.value)) for name, m in parts.items()})
    result = solved(form)
    multipliers = 1.02 * result.multipliers
    bound = certify(wide, multipliers, start=feasible_start(cone_problem(form))).upper
    assert bound > result.bound * (1 + 1e-4)
    for _ in range(20):
        changed = {}
        for name, m in vars(wide).items():
            if isinstance(m, Matrix):
                changed[name] = Matrix(m.value + m.radius * draw.choice([-1.0, 1.0], m.value.shape))
        assert solved(replace(form, **changed)).bound <= bound


def test_gram_charge_bounds_the_true_difference() -> None:
    """Against rational arithmetic: K^T K of the real matrices lies below the computed one plus the charge."""
    form = form_of(network((3, 4, 4, 2), "relu", 3).chain)
    multipliers = np.array([4.0 ** (i % 5 - 2) for i in range(form.blocks)])  # exact roots
    gram = form_gram(form, multipliers, np.ones(2), np.ones(3))
    rows = np.concatenate([np.sqrt(multipliers)[form.v_block], np.ones(2)])
    stack = np.block([[form.c.value, form.d.value], [form.cy.value, form.dy.value]])
    scale = [Fraction(2) ** int(k) for k in gram.exponents]
    exact = [
        [Fraction(float(r)) * Fraction(float(x)) * s for x, s in zip(row, scale, strict=True)]
        for r, row in zip(rows, stack, strict=True)
    ]
    size = len(scale)
    off = np.zeros((size, size))
    for i in range(size):
        for j in range(i + 1):
            true = sum((row[i] * row[j] for row in exact), Fraction(0))
            off[i, j] = off[j, i] = float(true - Fraction(float(gram.matrix[i, j])))
    assert np.linalg.eigvalsh(np.diag(gram.charge) - off)[0] > 0
    assert gram.charge.max() < 1e-11


def test_five_decades_of_multipliers_do_not_hurt() -> None:
    """Layers of very different sizes: the optimum is the same, the multipliers are spread over ten decades."""
    net = network((4, 8, 8, 8, 3), "relu", 6)
    factors = [1e3, 1e-5, 1e4, 1e-2]
    weights = tuple(Matrix(w.value * f) for w, f in zip(net.chain.weights, factors, strict=True))
    scaled = Chain(weights, net.chain.activations)
    result = solved(form_of(net.chain))
    rest = [math.prod(factors[i + 1 :]) ** 2 for i in range(3)]
    multipliers = result.multipliers * np.repeat(rest, 8)
    for certified in (certify(form_of(scaled), multipliers), certify_chain(scaled, multipliers)):
        assert certified.upper == pytest.approx(result.bound, rel=1e-8)


@pytest.mark.parametrize("norm", [(math.inf, 1.0), (3.0, 1.5), (2.0, 1.0), (4.0, 2.0), (math.inf, 2.0)])
def test_other_norms(norm: tuple[float, float]) -> None:
    net = network((4, 8, 8, 3), "relu", 2)
    form = form_of(net.chain)
    result = solved(form, norm)
    for certified in (certify(form, result.point, norm=norm), certify_chain(net.chain, result.point, norm=norm)):
        assert certified.upper == pytest.approx(result.bound, rel=1e-7)
        assert certified.upper >= quotient(net, norm)
    worse = Point(result.point.multipliers, result.point.mu, np.zeros(4))
    assert certify(form, worse, norm=norm).upper >= result.bound * (1 - 1e-7), "tau is found when it is missing"
    with pytest.raises(UsageError, match="mu and tau"):
        certify(form, result.multipliers, norm=norm)


@given(seed=st.integers(0, 10**6), norm=st.sampled_from([(math.inf, 1.0), (3.0, 1.5), (2.5, 2.0)]))
def test_tampered_points_for_other_norms(seed: int, norm: tuple[float, float]) -> None:
    draw = np.random.default_rng(seed)
    net = network((4, 6, 6, 3), "relu", seed)
    form = form_of(net.chain)
    kinds = draw.choice(["normal", "decades", "broken", "zero", "tiny"], 3)
    point = Point(*(garbage(str(k), n, draw) for k, n in zip(kinds, (form.blocks, 3, 4), strict=True)))
    start = feasible_start(cone_problem(form, norm))
    lower = quotient(net, norm)
    assert certify(form, point, norm=norm, start=start).upper >= lower
    try:
        layered = certify_chain(net.chain, point, norm=norm)
    except CertificationError:
        return
    assert layered.upper >= lower


def quotient(net: Network, norm: tuple[float, float]) -> float:
    """Largest difference quotient over random pairs: with the two norms, a lower bound."""
    import torch

    draw = torch.Generator().manual_seed(0)
    a = torch.randn(400, net.inputs, generator=draw, dtype=torch.float64)
    b = a + 0.1 * torch.randn(400, net.inputs, generator=draw, dtype=torch.float64).sign()
    out = torch.linalg.vector_norm(net.function(a) - net.function(b), ord=norm[1], dim=1)
    return float((out / torch.linalg.vector_norm(a - b, ord=norm[0], dim=1)).max()) * (1 - 1e-12)


def test_one_output_needs_no_mu_and_infinity_needs_one_output() -> None:
    form = form_of(network((4, 6, 1), "relu", 2).chain)
    result = solved(form, math.inf)
    assert certify(form, result.point, norm=math.inf).upper == pytest.approx(result.bound, rel=1e-7)
    with pytest.raises(UsageError, match="output by output"):
        certify(form_of(network((4, 6, 2), "relu", 2).chain), np.ones(6), norm=math.inf)
    with pytest.raises(UsageError, match="do not fit"):
        certify(form, np.ones(5))


def test_linear_and_constant_networks() -> None:
    chain, none = network((4, 3), "relu", 1).chain, np.zeros(0)
    weight = chain.weights[0].value
    expected = np.linalg.norm(weight, 2)
    for found in (certify(_linear(weight), none), certify_chain(chain, none)):
        assert expected <= found.upper * (1 + 1e-15) <= expected * (1 + 1e-8)
    assert certify(_linear(np.zeros((2, 3))), np.zeros(0)).upper == 0.0


def _linear(dy: Floats) -> Form:
    none = np.zeros(0, dtype=np.int64)
    c, d, cy = np.zeros((0, 0)), np.zeros((0, dy.shape[1])), np.zeros((dy.shape[0], 0))
    return Form(Matrix(c), Matrix(d), Matrix(cy), Matrix(dy), none, none, none)


def test_chain_certificate_takes_sparse_layers_and_radii() -> None:
    from scipy import sparse

    net = network((5, 9, 9, 3), "relu", 8)
    result = solved(form_of(net.chain))
    dense = certify_chain(net.chain, result.multipliers)
    parts = [
        replace(a, p=sparse.csr_matrix(a.p), r=sparse.csc_matrix(a.r), q=sparse.csr_matrix(a.q))
        for a in net.chain.activations
    ]
    weights = [Matrix(net.chain.weights[0].value), Matrix(sparse.csr_matrix(net.chain.weights[1].value))]
    light = Chain((*weights, net.chain.weights[2]), tuple(parts))
    assert certify_chain(light, result.multipliers).upper == pytest.approx(dense.upper, rel=1e-9)
    wide = Chain(tuple(Matrix(w.value, 1e-4 * np.abs(w.value)) for w in net.chain.weights), net.chain.activations)
    looser = certify_chain(wide, 1.01 * result.multipliers)
    assert looser.upper > certify_chain(net.chain, 1.01 * result.multipliers).upper * (1 + 1e-4)


@given(seed=st.integers(0, 10**6))
def test_congruence_lies_above_every_matrix_within_the_radius(seed: int) -> None:
    draw = np.random.default_rng(seed)
    weight, thin = draw.standard_normal((4, 3)) * 10.0 ** draw.integers(-4, 4, 3), draw.standard_normal((4, 4))
    middle = thin @ thin.T
    middle = 0.5 * (middle + middle.T)
    radius = 1e-3 * draw.random((4, 3)) * np.abs(weight)
    above = congruence(Matrix(weight, radius), middle)
    scale = 1 / np.sqrt(np.diagonal(above))
    for signs in product([-1.0, 0.0, 1.0], repeat=3):
        true = weight + radius * np.asarray(signs) * draw.choice([-1.0, 1.0], (4, 1))
        gap = (above - true.T @ middle @ true) * scale[:, None] * scale
        assert np.linalg.eigvalsh(0.5 * (gap + gap.T))[0] >= -1e-13


def test_entries_with_long_mantissas_count_as_rounded() -> None:
    assert as_matrix(np.array([[0.5, -1.0, 0.0]])).radius is None
    radius = as_matrix(np.array([[1 / math.sqrt(2), 0.0]])).radius
    assert radius is not None and radius[0, 0] > 1e-16 and radius[0, 1] == 0


def test_multiplier_norms_round_up() -> None:
    values = np.array([0.1, 0.2, 0.3])
    assert Fraction(multiplier_norm_upper(values, 1.0)) >= sum(Fraction(float(v)) for v in values)
    assert Fraction(multiplier_norm_upper(values, 2.0)) ** 2 >= sum(Fraction(float(v)) ** 2 for v in values)
    assert multiplier_norm_upper(values, 2.0) == pytest.approx(np.linalg.norm(values), rel=1e-12)
    assert multiplier_norm_upper(values, math.inf) == 0.3 and multiplier_norm_upper(np.zeros(2), 1.0) == 0
    exponents = exponents_of((4.0, 4 / 3), 3)
    assert (exponents.tau, exponents.mu) == (2.0, pytest.approx(2.0))


def test_certificates_are_frozen_and_carry_their_multipliers() -> None:
    form = form_of(network((3, 6, 2), "maxmin", 1).chain)
    certified: Certified = certify(form, solved(form).multipliers)
    again = certify(form, certified.multipliers)
    assert again.upper == certified.upper
    assert certified.upper <= product_bound(network((3, 6, 2), "maxmin", 1)) * (1 + 1e-9)


def test_a_certificate_with_too_small_a_sigma_is_refused() -> None:
    """The check itself, made to fail on purpose: the same Gram matrix with sigma a little too small."""
    form = form_of(network((3, 6, 6, 2), "relu", 1).chain)
    result = solved(form)
    gram = form_gram(form, result.multipliers, np.ones(2), np.ones(3))
    for factor, expected in ((1 + 1e-6, True), (1 - 1e-6, False)):
        diagonal = np.concatenate([result.multipliers[form.w_block], np.full(3, result.rho * factor)])
        assert gram.dominated_by(np.ldexp(diagonal, 2 * gram.exponents)) is expected
    assert verify_psd(np.eye(2)) and spectral_norm_upper(np.eye(2)) >= 1


@given(seed=st.integers(0, 10**6))
def test_a_storage_matrix_too_small_is_refused(seed: int) -> None:
    """One neuron: Z must be at least a + b^2 / (lambda - d) for the matrix [[a, b], [b, d]]."""
    a, d, weight = np.random.default_rng(seed).random(3) + [0.1, 0.1, 1.2]
    b = 0.9 * math.sqrt(a * d)
    least = a + b * b / (weight - d)
    behind, exponents = np.array([[a, b], [b, d]]), np.zeros(2, dtype=np.int64)
    assert covers(np.array([[least * (1 + 1e-9)]]), np.array([weight]), behind, exponents)
    assert not covers(np.array([[least * (1 - 1e-9)]]), np.array([weight]), behind, exponents)
