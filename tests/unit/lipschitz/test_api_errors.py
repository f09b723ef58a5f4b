"""`verinet.lipschitz` used wrongly, and networks without a bound: the error says what and where."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import verinet
from tests.unit.frontends.onnx_models import node, weights
from tests.unit.lipschitz.api_kit import (
    ACTIVATIONS,
    SIZE,
    attained_at,
    check_holds,
    dense_net,
    loaded,
    points_in_ball,
    spec_of,
)
from verinet.errors import ModelError, PropertyError, UsageError, VerinetError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "magic"}, "unknown method 'magic'.*recursion"),
        ({"solver": "sedumi"}, "unknown solver 'sedumi'.*clarabel"),
        ({"solver": "scs", "method": "layer"}, "layer does not use scs"),
        ({"norm": "l1"}, "unknown norm 'l1'"),
        ({"norm": 3}, "unknown norm 3"),
        ({"norm": (0.5, 2)}, "unknown norm"),
        ({"norm": (2, 2, 2)}, "unknown norm"),
        ({"norm": (1.5, 2)}, "no semidefinite bound from the 1.5-norm"),
        ({"norm": (2, 4)}, "to the 4-norm"),
        ({"norm": "inf", "method": "recursion"}, "2-norm"),
        ({"norm": (1, 2), "method": "product"}, "norm products"),
        ({"timeout": 0.0}, "positive number of seconds"),
        ({"timeout": math.nan}, "positive number of seconds"),
        ({"output": 3}, "no such output: 3.*0 to 2"),
        ({"output": -1}, "no such output"),
        ({"output": []}, "no such output"),
        ({"output": [0.5]}, "no such output"),
        ({"output": np.ones((2, 4))}, "does not combine 3 outputs"),
        ({"output": np.full((1, 3), math.nan)}, "not finite"),
        ({"region": verinet.Ball(np.zeros(5), 1.0)}, "region has 5 inputs, the network 4"),
        ({"region": verinet.Ball(np.zeros(4), -1.0)}, "not a ball"),
        ({"region": verinet.Ball(np.zeros(4), math.inf)}, "not a ball"),
        ({"region": verinet.box(np.zeros(3), np.ones(3))}, "region has 3 inputs, the network 4"),
        ({"region": verinet.box(np.ones(4), np.zeros(4))}, "empty"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    network = loaded(dense_net(ACTIVATIONS["relu"]))
    with pytest.raises((UsageError, PropertyError), match=f"(?s){words}"):
        verinet.lipschitz(network, **{"timeout": 2.0, **options})


def test_mosek_is_asked_for_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cvxpy = pytest.importorskip("cvxpy")
    monkeypatch.setattr(cvxpy, "installed_solvers", lambda: ["CLARABEL", "SCS"])
    with pytest.raises(UsageError, match="MOSEK is not installed"):
        verinet.lipschitz(loaded(dense_net(ACTIVATIONS["relu"])), solver="mosek", timeout=2)


def test_an_activation_without_finite_slope_is_named() -> None:
    network = loaded(dense_net([node("Abs", "h", "s"), node("Sqrt", "s", "g", name="root")]))
    with pytest.raises(ModelError, match=r"(?s)no finite slope.*node '(root|g)'"):
        verinet.lipschitz(network, timeout=2)


def test_a_function_that_needs_a_region_gets_one() -> None:
    nodes = [node("MatMul", "x W", "h"), node("Mul", "h h", "g"), node("MatMul", "g V", "y")]
    network = loaded(spec_of(nodes, W=weights(SIZE, 6), V=weights(6, 2, seed=1)))
    with pytest.raises(ModelError, match="give a region"):
        verinet.lipschitz(network, timeout=2)
    center = np.full(SIZE, 0.2)
    bound = verinet.lipschitz(network, region=verinet.Ball(center, 0.5), timeout=2)
    check_holds(bound, attained_at(network, points_in_ball(center, 0.5), 2))


def test_missing_files_are_errors(tmp_path: Path) -> None:
    for name in ("none.npz", "none.onnx"):
        with pytest.raises(VerinetError, match="none"):
            verinet.lipschitz(tmp_path / name)
