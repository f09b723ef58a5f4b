"""`verinet.lipschitz` of implicit models: bounds, the certificate of one solution, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import verinet
from tests.unit.lipschitz.api_kit import (
    ACTIVATIONS,
    NORMS,
    dense_net,
    implicit_file,
    loaded,
)
from verinet.errors import ModelError, UsageError


@pytest.mark.parametrize("method", ["auto", "first-order", "neuron", "exact"])
def test_implicit_models(tmp_path: Path, method: str) -> None:
    bound = verinet.lipschitz(implicit_file(tmp_path), method=method, timeout=3)
    assert bound.upper >= bound.lower > 0.3 * bound.upper


def test_the_answer_holds_the_certificate_of_one_solution(tmp_path: Path) -> None:
    """With A = a / |a| * 0.4 and slopes in [0, 1]: about 0.2 / (1 - 0.2), as after moving the mean slope over."""
    bound = verinet.lipschitz(implicit_file(tmp_path), method="neuron", timeout=3)
    assert bound.contraction is not None and 0.05 < bound.contraction < 0.25
    assert json.loads(json.dumps(bound.to_dict()))["contraction"] == bound.contraction
    closer = verinet.lipschitz(implicit_file(tmp_path, scale=0.8), method="neuron", timeout=3)
    assert closer.contraction is not None and bound.contraction < closer.contraction < 1
    plain = verinet.lipschitz(loaded(dense_net(ACTIVATIONS["relu"])), method="product", timeout=2)
    assert plain.contraction is None and plain.to_dict()["contraction"] is None


@pytest.mark.parametrize("norm", NORMS)
def test_implicit_models_in_other_norms(tmp_path: Path, norm: Any) -> None:
    bound = verinet.lipschitz(implicit_file(tmp_path), norm=norm, output=[1, 0], timeout=2)
    assert bound.upper >= bound.lower > 0.2 * bound.upper


@pytest.mark.parametrize("method", ["product", "recursion", "layer"])
def test_methods_that_implicit_models_have_not(tmp_path: Path, method: str) -> None:
    with pytest.raises(UsageError, match="feed-forward"):
        verinet.lipschitz(implicit_file(tmp_path), method=method, timeout=1)


def test_implicit_models_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not shown to be well posed"):
        verinet.lipschitz(implicit_file(tmp_path, A=2.0 * np.eye(6)))
    with pytest.raises(ModelError, match="lacks A"):
        verinet.lipschitz(implicit_file(tmp_path, A=None))
    with pytest.raises(ModelError, match="does not fit"):
        verinet.lipschitz(implicit_file(tmp_path, B=np.ones((5, 3))))
    with pytest.raises(UsageError, match="whole space"):
        verinet.lipschitz(implicit_file(tmp_path), region=verinet.Ball(np.zeros(3), 1.0))
