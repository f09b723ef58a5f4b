"""The menu: only certified finite numbers leave it, the best first, whatever single methods do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from verinet.solvers.lipschitz import menu
from verinet.solvers.lipschitz.menu import Ask, Subject, bounds_by_menu, check_names
from verinet.solvers.sdp.cone import Point

from tests.kits.lipschitz_networks import form_of, network, sampled
from verinet.errors import CertificationError, InternalError, UsageError


def _ask(method: str = "auto", seconds: float = 5.0, norm: Any = 2, lower: float = 0.0) -> Ask:
    return Ask(norm, method, "auto", time.perf_counter() + seconds, lambda: lower)


def _subject(kind: str = "relu", product: Callable[[], float] | None = None) -> Subject:
    net = network((3, 6, 6, 2), kind)
    return Subject(form_of(net.chain), net.chain, product)


@pytest.mark.parametrize("kind", ["relu", "tanh", "leaky", "abs", "maxmin", "sort3", "householder"])
def test_candidates_are_sorted_and_hold(kind: str) -> None:
    found = bounds_by_menu(_subject(kind), _ask())
    uppers = [c.upper for c in found]
    assert uppers == sorted(uppers) and {c.method for c in found} >= {"recursion", "neuron"}
    assert uppers[0] >= sampled(network((3, 6, 6, 2), kind)) * (1 - 1e-9)


def test_what_is_no_bound_is_left_out() -> None:
    for nonsense in (math.nan, math.inf, -1.0):
        found = bounds_by_menu(_subject(product=lambda value=nonsense: value), _ask())  # type: ignore[misc]
        assert "product" not in {c.method for c in found} and all(c.upper > 0 for c in found)
    with pytest.raises(CertificationError, match="no method proves"):
        bounds_by_menu(Subject(None, None, lambda: math.inf), _ask())


def test_it_ends_where_the_lower_bound_is_met_or_the_time_is_over() -> None:
    met = bounds_by_menu(_subject(product=lambda: 7.0), _ask(lower=7.0))
    late = bounds_by_menu(_subject(product=lambda: 7.0), _ask(seconds=-1.0))
    assert [c.method for c in met] == [c.method for c in late] == ["product"]


def test_garbage_from_a_solver_is_certified_or_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    true = sampled(network((3, 6, 6, 2), "relu"))
    real = menu.interior_point
    for factor in (0.0, -1.0, 1e-30, math.nan, 1e30, 0.5):

        def tampered(problem: Any, factor: float = factor, **options: Any) -> Any:
            import dataclasses

            result = real(problem, **options)
            point = Point(result.point.multipliers * factor, result.point.mu, result.point.tau * 0)
            return dataclasses.replace(result, point=point, bound=0.0)

        monkeypatch.setattr(menu, "interior_point", tampered)
        found = bounds_by_menu(_subject(), _ask("neuron"))
        assert found[0].upper >= true * (1 - 1e-9)


def test_a_broken_invariant_is_not_passed_over() -> None:
    def broken() -> float:
        raise InternalError("crossing bounds")

    with pytest.raises(InternalError):
        bounds_by_menu(_subject(product=broken), _ask())


def test_methods_that_do_not_apply_say_so() -> None:
    chainless = Subject(_subject().form, None, None)
    for method, words in (("recursion", "feed-forward"), ("layer", "feed-forward"), ("product", "feed-forward")):
        with pytest.raises(UsageError, match=words):
            bounds_by_menu(chainless, _ask(method))
    with pytest.raises(UsageError, match="scalar activations"):
        bounds_by_menu(_subject("sort3"), _ask("exact"))
    with pytest.raises(UsageError, match="too large"):
        bounds_by_menu(Subject(None, _subject().chain, None), _ask("neuron"))
    with pytest.raises(UsageError, match="norms 2 and inf"):
        bounds_by_menu(_subject(), _ask("exact", norm=(1, 2)))


def test_exact_values_reach_the_norm_of_a_vertex() -> None:
    found = bounds_by_menu(_subject("relu"), _ask("exact"))[0]
    proved = bounds_by_menu(_subject("relu"), _ask("neuron"))[0]
    assert found.method == "exact" and found.upper <= proved.upper * (1 + 1e-6)
    assert found.upper >= sampled(network((3, 6, 6, 2), "relu")) * (1 - 1e-9)


def test_names() -> None:
    for method in menu.METHODS:
        check_names(method, "auto")
    for wrong in (("none", "auto"), ("auto", "none"), ("exact", "scs"), ("product", "mosek")):
        with pytest.raises(UsageError):
            check_names(*wrong)
    assert np.isfinite(menu.CLOSE)
