"""Searches on an emulated device: all tensors are made where the query is, and the answers stay what they are."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.tighten import Tightener
from verinet.solvers.query import Query
from verinet.solvers.root import Root
from verinet.solvers.spread_work import moved
from verinet.solvers.strategy import Strategy

import verinet
from tests.kits.elsewhere import CUDA, WrongDevice, emulated
from tests.kits.pipeline_fuzz import questions, searched, verified
from tests.soundness.test_attention import attention
from tests.soundness.test_pipeline_fuzz import cases, generator
from tests.unit.solvers.queries import hard_row, one_row, silent
from verinet.ops.rewrites import for_verification
from verinet.propagation.interval import Interval
from verinet.results import Status

SPECS = Path(__file__).parents[2] / "vnnlib_specs"
QUICK = (
    "digits_cnn_radius_0.05",
    "digits_gelu_radius_0.05",
    "digits_int8_radius_0.05",
    "digits_residual_radius_0.05",
    "digits_sign_radius_0.02",
    "digits_tanh_radius_0.2",
    "double_integrator_effort_1.1",
    "opf_3bus_rating_0.67",
    "pendulum_lyapunov_stays",
)


def test_the_emulation_refuses_what_a_device_refuses() -> None:
    with emulated():
        here, there = torch.ones(3), torch.zeros(3, device="cuda")
        assert there.device == CUDA and there.is_cuda and (there + 1.0).device == CUDA
        assert here.to("cuda").device == CUDA and there.cpu().device == here.device
        assert torch.equal((there + here.to(there)).cpu(), here), "what is computed is right"
        with pytest.raises(WrongDevice):
            there + here
        with pytest.raises(WrongDevice):
            here[there > 1]
        with pytest.raises(WrongDevice):
            there[:2] = here[:2]
        with pytest.raises(WrongDevice):
            torch.cat([there, here])
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
        moved = here.to("cuda")
        moved[0] = 5.0
        assert float(here[0]) == 1.0, "a copy is another tensor"
    assert here.device.type == "cpu" and not torch.cuda.is_available()


@pytest.mark.parametrize("name", QUICK)
def test_shipped_models_get_their_answers_on_a_device(name: str) -> None:
    with (SPECS / "expected.csv").open() as stream:
        rows = {row["vnnlib"]: row for row in csv.DictReader(stream)}
    row = rows[f"{name}.vnnlib"]
    with emulated() as seen:
        verdict = verinet.verify(SPECS / row["onnx"], SPECS / row["vnnlib"], timeout=60, device="cuda")
    assert verdict.status.value == row["verdict"]
    if verdict.status is Status.UNSAT:
        assert seen.device > 3 * seen.cpu, "the work is done on the device"


def test_random_networks_are_searched_on_a_device() -> None:
    """Every way of branching; none may close a question that a point answers, and none may fail."""
    tried = set()
    for seed, case in cases(4200, 12):
        random = generator(seed)
        with emulated() as seen:
            for question in questions(case, random):
                how = ("input", "neuron", "strategy")[int(random.integers(3))]
                assert searched(case, question, how, 0.15, random, "cuda") is None, seed
                tried.add(how)
                assert seen.device
                if question.form != "halves":
                    verdict, wrong = verified(case, question.text, 1.0)
                    assert wrong is None and verdict != "unsat", seed
    assert tried == {"input", "neuron", "strategy"}


def test_products_that_know_their_factors_are_searched_on_a_device() -> None:
    graph = for_verification(attention(3))
    centre = torch.linspace(-1.0, 1.0, graph.input_size, dtype=torch.float64)
    row = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    value = float(graph.forward(centre[None])[0] @ row)
    query = one_row(graph, (centre - 0.05, centre + 0.05), row, value - 1.0)
    with emulated():
        there = moved(query, CUDA)
        outcome = Strategy(there, graph.to(torch.float32, CUDA), lambda points: False, silent, 0).solve(there.clock)
    here = Strategy(query, graph.to(torch.float32), lambda points: False, silent, 0).solve(query.clock)
    assert outcome.end is here.end and (outcome.domains, outcome.closed) == (here.domains, here.closed)


def test_bounds_on_a_device_are_those_of_the_cpu() -> None:
    model = SPECS.parent / "models" / "digits_gelu.onnx"
    region = SPECS / "digits_gelu_radius_0.05.vnnlib"
    plain = verinet.bounds(model, region, device="cpu")
    with emulated():
        other = verinet.bounds(model, region, device="cuda")
    np.testing.assert_array_equal(plain.lower, other.lower)
    np.testing.assert_array_equal(plain.upper, other.upper)


def test_layer_bounds_are_sharpened_on_a_device() -> None:
    """A round with weights, as the tree makes it."""

    def sharpened(query: Query) -> dict[int, Interval]:
        root = Root(query, query.clock)
        search = NeuronSplit(query, root.engines(), root.layers, root.bound(silent))
        leaf = search.stack[0]
        _, weights = search.weighed(leaf)
        done = Tightener(query, search.engines).round(search.part(leaf), search.exact_sweep(leaf).known, None, weights)
        assert done.passed and not bool(done.refuted.any())
        return done.known

    query = hard_row(3, 20, 0.1, 3)
    here = sharpened(query)
    with emulated():
        there = {v: (lo.cpu(), hi.cpu()) for v, (lo, hi) in sharpened(moved(query, CUDA)).items()}
    assert here.keys() == there.keys()
    assert all(torch.equal(a, b) for v in here for a, b in zip(here[v], there[v], strict=True))
