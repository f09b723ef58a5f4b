"""Lipschitz bounds of random networks; `python -m benchmarks.fuzz_lipschitz` does the same for longer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

import verinet
from tests.kits.lipschitz_drawn import LAYERS, subject
from tests.kits.lipschitz_fuzz import NORMS, Place, attained, examine, examine_implicit, examine_radius, wrong
from tests.unit.frontends.onnx_models import Spec, node, weights
from verinet.frontends.onnx import load_onnx

NETWORKS, SECONDS = 12, 0.15


def test_no_bound_is_below_what_inputs_attain_or_above_the_norms() -> None:
    counts: Counter[str] = Counter()
    for seed in range(NETWORKS):
        assert examine(seed, SECONDS, counts) == [], seed
    given = {name.split(":")[0]: count for name, count in counts.items() if name.endswith("bounds")}
    assert sum(given.values()) >= 1.5 * NETWORKS and len(given) >= 5, counts


@pytest.mark.parametrize("kind", [examine_radius, examine_implicit])
def test_radii_and_implicit_models(kind: Callable[[int, float, Counter[str]], list[str]]) -> None:
    counts: Counter[str] = Counter()
    for seed in range(2):
        assert kind(seed, SECONDS, counts) == [], seed
    assert sum(count for name, count in counts.items() if name.endswith("bounds")) >= 1, counts


def test_the_drawing_covers_all_layers() -> None:
    seen = {word for seed in range(150) for word in subject(np.random.default_rng(seed)).words}
    assert {layer.__name__ for layer in LAYERS} <= seen and "bending" in seen


def test_the_climb_comes_close_to_the_constant() -> None:
    """A bound that is a little too low would be noticed: of networks with 12 slopes the exact constant is known."""
    near = 0
    for seed in range(8):
        random = np.random.default_rng(seed)
        chain = [node("MatMul", "x W", "h"), node("Relu", "h", "r"), node("MatMul", "r V", "y")]
        constants = {"W": weights(3, 6, seed=seed), "V": weights(6, 2, seed=seed + 1)}
        model = load_onnx(Spec("net", chain, {"x": (1, 3)}, constants).model())
        found = attained(model.graph.to(torch.float64), Place(), (2.0, 2.0), np.eye(2), random)
        exact = verinet.lipschitz(model, method="exact", timeout=2)
        assert found <= exact.upper * (1 + 1e-9)
        near += found > 0.97 * exact.upper
    assert near >= 6


@pytest.mark.parametrize(("change", "words"), [(0.9, "is below what is attained"), (20.0, "is above the product")])
def test_wrong_bounds_would_be_noticed(change: float, words: str) -> None:
    """The certified bound of a linear map, made too low or too high."""
    import dataclasses

    network = next(s for seed in range(99) if (s := subject(np.random.default_rng(seed))).norms is not None)
    bound = verinet.lipschitz(network.model, method="product", timeout=1)
    height = attained(
        network.graph, Place(), (2.0, 2.0), np.eye(network.model.graph.output_size), np.random.default_rng(0)
    )
    assert wrong(bound, height, network, ("product", 2, None)) == []
    upper = (height if change < 1 else bound.upper) * change
    moved = dataclasses.replace(bound, upper=upper, lower=0.0)
    assert any(words in line for line in wrong(moved, height, network, ("product", 2, None)))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", ["first-order", "neuron", "auto"])
def test_linear_networks_with_multipliers_for_the_norms_alone(norm: object, method: str) -> None:
    """No nonlinear block at all, but multipliers for inputs or outputs: used to divide by the number of blocks."""
    matrix = weights(3, 2)
    model = load_onnx(Spec("line", [node("MatMul", "x W", "y")], {"x": (1, 3)}, {"W": matrix}).model())
    bound = verinet.lipschitz(model, norm=norm, method=method, timeout=1)  # type: ignore[arg-type]
    p, q = norm if isinstance(norm, tuple) else (float(str(norm)), float(str(norm)))
    least = attained(model.graph.to(torch.float64), Place(), (p, q), np.eye(2), np.random.default_rng(1))
    assert least * (1 - 1e-9) <= bound.upper < math.inf
