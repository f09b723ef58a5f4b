"""`verify` and `bounds` on small ONNX files: right answers, limits, hooks, threads and typed errors."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import verinet
from tests.soundness.networks import samples
from tests.soundness.test_exact import exact_minimum
from tests.unit.solvers.queries import onnx_chain, property_of, random_chain, rows
from verinet.errors import PropertyError, UsageError
from verinet.results import Progress, Reason, Status, Verdict
from verinet.spec.property import Clause, Property, Rows

LOW, HIGH = torch.full((3,), -1.0, dtype=torch.float64), torch.full((3,), 1.0, dtype=torch.float64)
ROW = torch.tensor([1.0, -0.5], dtype=torch.float64)
REGION = verinet.box(LOW.numpy(), HIGH.numpy())


def _claim(threshold: float, strict: bool = False) -> Property:
    return property_of([(LOW.numpy(), HIGH.numpy())], [Clause(0, rows(ROW.numpy(), [threshold], strict=strict))], 2)


def _chain(tmp_path: Path, seed: int, sizes: tuple[int, ...] = (3, 5, 5, 2), activation: str = "Relu") -> Path:
    folder = tmp_path / f"{activation}{seed}"
    folder.mkdir(exist_ok=True)
    return onnx_chain(random_chain(sizes, seed), folder, activation)


def _check_witness(verdict: Verdict, path: Path, threshold: float) -> None:
    assert verdict.witness is not None
    inputs = verdict.witness.inputs
    assert bool(((inputs >= LOW.numpy()) & (inputs <= HIGH.numpy())).all())
    assert np.array_equal(inputs, inputs.astype(np.float32))
    assert float(verdict.witness.outputs @ ROW.numpy()) <= threshold
    graph = verinet.load(path).graph.to(torch.float64)
    assert float(graph.forward(torch.from_numpy(np.array(inputs))[None])[0] @ ROW) <= threshold + 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_verdicts_next_to_the_exact_minimum(tmp_path: Path, seed: int) -> None:
    path = _chain(tmp_path, seed)
    _, least = exact_minimum(verinet.load(path).graph.to(torch.float64), LOW, HIGH, ROW)
    proved = verinet.verify(path, _claim(least - 1e-3), timeout=30, device="cpu")
    assert (proved.status, proved.reason, proved.gap) == (Status.UNSAT, Reason.PROVED, 0.0)
    found = verinet.verify(path, _claim(least + 1e-3), timeout=30, device="cpu")
    assert (found.status, found.reason) == (Status.SAT, Reason.REPLAYED)
    _check_witness(found, path, least + 1e-3)


@pytest.mark.parametrize("violated", (False, True))
def test_a_box_that_is_a_point(tmp_path: Path, violated: bool) -> None:
    path = _chain(tmp_path, 1)
    point = np.array([0.25, -0.5, 0.75])
    value = float(verinet.load(path).graph.to(torch.float64).forward(torch.from_numpy(point)[None])[0] @ ROW)
    clause = Clause(0, rows(ROW.numpy(), [value + (1e-3 if violated else -1e-3)]))
    verdict = verinet.verify(path, property_of([(point, point)], [clause], 2), timeout=20, device="cpu")
    assert verdict.status is (Status.SAT if violated else Status.UNSAT)


def test_clauses_without_rows_and_without_boxes(tmp_path: Path) -> None:
    path = _chain(tmp_path, 0)
    everything = property_of([(LOW.numpy(), HIGH.numpy())], [Clause(0, rows(np.zeros((0, 2)), []))], 2)
    assert verinet.verify(path, everything, timeout=20, device="cpu").status is Status.SAT
    nothing = verinet.verify(path, Property((), (), 3, 2), timeout=20, device="cpu")
    assert (nothing.status, nothing.reason) == (Status.UNSAT, Reason.EMPTY_REGION)


def test_two_threads_get_their_own_answers(tmp_path: Path) -> None:
    cases: list[tuple[Path, Property, Status]] = []
    for seed in range(2):
        path = _chain(tmp_path, seed)
        _, least = exact_minimum(verinet.load(path).graph.to(torch.float64), LOW, HIGH, ROW)
        cases += [(path, _claim(least - 1e-2), Status.UNSAT), (path, _claim(least + 1e-2), Status.SAT)]
    answers: dict[int, list[Status]] = {}

    def work(number: int) -> None:
        mine = [cases[(i + 2 * number) % len(cases)] for i in range(len(cases))]
        answers[number] = [verinet.verify(p, c, timeout=30, device="cpu").status for p, c, _ in mine]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [status for _, _, status in cases]
    assert answers == {0: expected, 1: expected[2:] + expected[:2]}


def _hard(tmp_path: Path) -> tuple[Path, Property]:
    """Many inputs, a wide box, and a threshold far below the network and far above its linear bounds."""
    path = _chain(tmp_path, 7, (30, 40, 40, 40, 2))
    low = torch.full((30,), -1.0, dtype=torch.float64)
    graph = verinet.load(path).graph.to(torch.float64)
    values = graph.forward(samples(low[None], -low[None], 0, 2000)[:, 0]) @ ROW
    threshold = float(values.min()) - float(values.max() - values.min())
    clause = Clause(0, rows(ROW.numpy(), [threshold]))
    return path, property_of([(low.numpy(), -low.numpy())], [clause], 2)


def test_the_timeout_ends_a_hard_query_with_its_gap(tmp_path: Path) -> None:
    path, claim = _hard(tmp_path)
    seen: list[Progress] = []
    begin = time.monotonic()
    verdict = verinet.verify(path, claim, timeout=1.5, device="cpu", progress=seen.append)
    seconds = time.monotonic() - begin
    assert (verdict.status, verdict.reason) == (Status.TIMED_OUT, Reason.OUT_OF_TIME)
    assert verdict.gap is not None and verdict.gap > 0
    assert 1.0 < seconds < 6.0  # roughly: one batch may be under way, and the machine may be busy
    assert seen and seen[0].phase == "attack"


def test_the_timeout_counts_from_the_given_start(tmp_path: Path) -> None:
    path, claim = _hard(tmp_path)
    begin = time.monotonic()
    verdict = verinet.verify(path, claim, timeout=100.0, started=begin - 99.5, device="cpu")
    assert verdict.status is Status.TIMED_OUT
    assert time.monotonic() - begin < 5.0
    assert verdict.stats.seconds > 99.0


def test_the_stop_callback_interrupts(tmp_path: Path) -> None:
    path, claim = _hard(tmp_path)
    begin = time.monotonic()
    verdict = verinet.verify(path, claim, timeout=60, device="cpu", stop=lambda: time.monotonic() > begin + 1.0)
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, Reason.INTERRUPTED)
    assert time.monotonic() - begin < 8.0


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 2), (3, 1)])
def test_sizes_that_do_not_fit_are_a_property_error(tmp_path: Path, inputs: int, outputs: int) -> None:
    path = _chain(tmp_path, 0)
    box = (np.zeros(inputs), np.ones(inputs))
    claim = property_of([box], [Clause(0, rows(np.ones((1, outputs)), [0.0]))], outputs)
    with pytest.raises(PropertyError, match=f"{inputs} inputs and {outputs} outputs"):
        verinet.verify(path, claim, device="cpu")
    if inputs != 3:
        with pytest.raises(PropertyError, match="inputs"):
            verinet.bounds(path, verinet.box(*box), device="cpu")


def test_options_that_make_no_sense_are_usage_errors(tmp_path: Path) -> None:
    path = _chain(tmp_path, 0)
    for wrong in ({"timeout": 0.0}, {"timeout": float("nan")}, {"device": "abacus"}):
        with pytest.raises(UsageError):
            verinet.verify(path, _claim(0.0), **wrong)
    for unknown in ({"layer": "nowhere"}, {"method": "magic"}):
        with pytest.raises(UsageError):
            verinet.bounds(path, REGION, device="cpu", **unknown)


@pytest.mark.parametrize("strict", (False, True))
def test_equality_is_a_violation_unless_strict(tmp_path: Path, strict: bool) -> None:
    """The network is y = (relu(x_0) + relu(x_1) + relu(x_2), 0): its least value 0 is attained, exactly."""
    eye, none = np.eye(3, dtype=np.float32), np.zeros(3, dtype=np.float32)
    last = (np.array([[1, 0], [1, 0], [1, 0]], dtype=np.float32), np.zeros(2, dtype=np.float32))
    path = onnx_chain([(eye, none), last], tmp_path)
    verdict = verinet.verify(path, _claim(0.0, strict), timeout=1, device="cpu")
    assert (verdict.status is Status.SAT) != strict  # a strict one may stay open: the bounds charge their rounding


@pytest.mark.parametrize("method", ("interval", "linear", "auto"))
def test_bounds_enclose_the_outputs_and_a_hidden_layer(tmp_path: Path, method: str) -> None:
    path = _chain(tmp_path, 2)
    graph = verinet.load(path).graph.to(torch.float64)
    values = graph.forward_all(samples(LOW[None], HIGH[None], 0, 500)[:, 0])
    hidden = next(i for i, n in enumerate(graph.nodes) if n.name == "z1")
    for layer, position in ((None, graph.output), ("z1", hidden)):
        found = verinet.bounds(path, REGION, layer=layer, method=method, device="cpu")
        value = values[position].reshape(500, -1).numpy()
        assert bool((found.lower <= value + 1e-12).all()) and bool((value <= found.upper + 1e-12).all())


def test_methods_get_tighter(tmp_path: Path) -> None:
    path = _chain(tmp_path, 2)
    widths = []
    for method in ("interval", "linear", "auto"):
        found = verinet.bounds(path, REGION, method=method, device="cpu")
        widths.append(float((found.upper - found.lower).sum()))
    assert widths[0] > widths[1] >= widths[2] - 1e-12


def test_bounds_of_several_boxes_are_those_of_their_hull(tmp_path: Path) -> None:
    path = _chain(tmp_path, 2)
    one, two = (np.full(3, -1.0), np.full(3, 0.0)), (np.full(3, 0.5), np.full(3, 1.0))
    no_rows: Rows = rows(np.zeros((0, 2)), [])
    several = verinet.bounds(path, property_of([one, two], [Clause(0, no_rows)], 2), device="cpu")
    hull = verinet.bounds(path, REGION, device="cpu")
    assert np.allclose(several.lower, hull.lower) and np.allclose(several.upper, hull.upper)
    with pytest.raises(PropertyError, match="empty"):
        verinet.bounds(path, Property((), (), 3, 2), device="cpu")
