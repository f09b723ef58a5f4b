"""`verinet.lipschitz` and `verinet.radius`: never below what is attained, errors, records."""

from __future__ import annotations

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import verinet
from tests.unit.frontends.onnx_models import Spec, ints, node, weights
from verinet.errors import ModelError, PropertyError, UsageError, VerinetError
from verinet.frontends.model import Model
from verinet.frontends.onnx import load_onnx
from verinet.results import LipschitzBound

INF = math.inf
SIZE = 4
NORMS: list[Any] = [2, "inf", (1, 2), (1, INF), (2, INF), (INF, 1), (3.0, 1.5)]


def _spec(nodes: list[Any], shape: tuple[int, ...] = (1, SIZE), **constants: np.ndarray) -> onnx.ModelProto:
    return Spec("net", nodes, {"x": shape}, constants).model()


def _dense(activation: list[Any], outputs: int = 3, scale: float = 1.0, seed: int = 0) -> onnx.ModelProto:
    """4 inputs, six units (h -> g by `activation`), again six (through a ReLU), outputs."""
    return _spec(
        [
            node("Gemm", "x W b", "h"),
            *activation,
            node("Gemm", "g V c", "k"),
            node("Relu", "k", "r"),
            node("MatMul", "r U", "y"),
        ],
        W=weights(SIZE, 6, seed=seed) * np.float32(scale),
        b=weights(6, seed=seed + 1),
        V=weights(6, 6, seed=seed + 2) * np.float32(0.5),
        c=weights(6, seed=seed + 3),
        U=weights(6, outputs, seed=seed + 4),
        pairs=ints(1, 3, 2),
        flat=ints(1, 6),
    )


MAXMIN = [
    node("Reshape", "h pairs", "p"),
    node("ReduceMax", "p", "hi", axes=[2], keepdims=0),
    node("ReduceMin", "p", "lo", axes=[2], keepdims=0),
    node("Concat", "hi lo", "g", axis=1),
]
RESIDUAL = [node("Relu", "h", "a"), node("Add", "a h", "g")]
ACTIVATIONS: dict[str, list[Any]] = {
    **{op.lower(): [node(op, "h", "g")] for op in ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "Softplus", "Abs", "Elu")},
    "maxmin": MAXMIN,
    "residual": RESIDUAL,
}


def _conv() -> onnx.ModelProto:
    return _spec(
        [
            node("Conv", "x K", "a", pads=[1, 1, 1, 1], strides=[2, 2]),
            node("Relu", "a", "r"),
            node("Flatten", "r", "f"),
            node("MatMul", "f U", "y"),
        ],
        (1, 1, 4, 4),
        K=weights(2, 1, 3, 3),
        U=weights(8, 3, seed=1),
    )


def _loaded(proto: onnx.ModelProto) -> Model:
    return load_onnx(proto)


def _operator_norm(jacobian: np.ndarray, p: float, q: float) -> float:
    """At most the norm from p to q: exact where vertices of the unit ball decide, else by random directions."""
    columns = jacobian.shape[1]
    if (p, q) == (2, 2):
        return float(np.linalg.norm(jacobian, 2))
    if p == 1:
        directions = np.eye(columns)
    elif math.isinf(p):
        directions = np.array(np.meshgrid(*[[-1.0, 1.0]] * min(columns, 10))).reshape(min(columns, 10), -1).T
        directions = np.pad(directions, ((0, 0), (0, columns - directions.shape[1])))
    else:
        directions = np.random.default_rng(0).standard_normal((60, columns))
        directions /= np.linalg.norm(directions, ord=p, axis=1, keepdims=True)
    return float(np.linalg.norm(directions @ jacobian.T, ord=q, axis=1).max())


def _attained(network: Model, points: np.ndarray, norm: Any, rows: np.ndarray | None = None) -> float:
    """The largest Jacobian norm at the points, and difference quotient between neighbours among them."""
    p, q = norm if isinstance(norm, tuple) else (float(norm), float(norm))
    graph = network.graph.to(torch.float64)
    rows = np.eye(graph.output_size) if rows is None else rows
    inputs = torch.from_numpy(points)
    jacobian = torch.autograd.functional.jacobian(lambda x: graph.forward(x).flatten(1).sum(0), inputs)
    best = max(_operator_norm(rows @ j, p, q) for j in jacobian.permute(1, 0, 2).numpy())
    values = graph.forward(inputs).flatten(1).numpy() @ rows.T
    moved, apart = np.diff(values, axis=0), np.diff(points, axis=0)
    far = np.linalg.norm(apart, ord=p, axis=1) > 1e-6
    quotients = np.linalg.norm(moved[far], ord=q, axis=1) / np.linalg.norm(apart[far], ord=p, axis=1)
    return max(best, float(quotients.max(initial=0.0)))


def _everywhere(size: int, count: int = 150) -> np.ndarray:
    draw = np.random.default_rng(5)
    return draw.standard_normal((count, size)) * 10 ** np.linspace(-1, 1, count)[:, None]


def _in_ball(center: np.ndarray, radius: float, count: int = 150) -> np.ndarray:
    draw = np.random.default_rng(6)
    ways = draw.standard_normal((count, center.size))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    return np.asarray(center + 0.999999 * radius * ways * draw.random((count, 1)) ** 0.25)


def _holds(bound: LipschitzBound, attained: float) -> None:
    assert bound.upper >= attained * (1 - 1e-9), (bound.upper, attained, bound.method)
    assert bound.upper >= bound.lower >= 0
    uppers = [upper for _, upper, _ in bound.candidates]
    assert uppers == sorted(uppers) and uppers[0] <= bound.upper <= uppers[0] * (1 + 2e-8)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("norm", [2, "inf"])
def test_bounds_are_above_what_samples_attain(name: str, norm: Any) -> None:
    network = _loaded(_dense(ACTIVATIONS[name]))
    bound = verinet.lipschitz(network, norm=norm, timeout=3)
    _holds(bound, _attained(network, _everywhere(SIZE), norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["maxmin", "tanh"])
def test_other_norms(name: str, norm: Any) -> None:
    network = _loaded(_dense(ACTIVATIONS[name]))
    bound = verinet.lipschitz(network, norm=norm, timeout=2)
    _holds(bound, _attained(network, _everywhere(SIZE), norm))


@pytest.mark.parametrize("norm", [2, "inf", (1, INF), (INF, 1)])
def test_convolutions(norm: Any) -> None:
    network = _loaded(_conv())
    _holds(verinet.lipschitz(network, norm=norm, timeout=2), _attained(network, _everywhere(16), norm))


@pytest.mark.parametrize("name", ["relu", "sigmoid", "maxmin", "residual"])
@pytest.mark.parametrize("radius", [0.05, 0.5, 3.0])
def test_boxes_and_balls(name: str, radius: float) -> None:
    """Regions hold what happens inside, a ball is never looser than its box, nor a box looser than the whole space."""
    network = _loaded(_dense(ACTIVATIONS[name]))
    center = np.array([0.3, -0.2, 0.5, 0.1])
    box = verinet.lipschitz(network, region=verinet.linf_ball(center, radius), method="neuron", timeout=3)
    ball = verinet.lipschitz(network, region=verinet.Ball(center, radius), method="neuron", timeout=3)
    whole = verinet.lipschitz(network, method="neuron", timeout=3)
    draw = np.random.default_rng(7)
    _holds(box, _attained(network, center + radius * draw.uniform(-1, 1, (200, SIZE)), 2))
    _holds(ball, _attained(network, _in_ball(center, radius), 2))
    assert ball.upper <= box.upper * (1 + 1e-5) and box.upper <= whole.upper * (1 + 1e-5)
    assert (ball.region, box.region, whole.region) == ("ball", "box", "everywhere")


@pytest.mark.parametrize("norm", [(1, 2), (1, INF), "inf"])
def test_other_norms_over_a_ball(norm: Any) -> None:
    """From the 1-norm input by input: the path along the axes leaves the ball, the bound must hold all the same."""
    network, center = _loaded(_dense(ACTIVATIONS["relu"])), np.array([0.3, -0.2, 0.5, 0.1])
    bound = verinet.lipschitz(network, norm=norm, region=verinet.Ball(center, 0.4), timeout=2)
    _holds(bound, _attained(network, _in_ball(center, 0.4), norm))


@pytest.mark.parametrize("method", ["auto", "product", "recursion", "layer", "first-order", "neuron", "exact"])
def test_every_method(method: str) -> None:
    network = _loaded(_dense(ACTIVATIONS["relu"]))
    bound = verinet.lipschitz(network, method=method, timeout=4)
    _holds(bound, _attained(network, _everywhere(SIZE), 2))
    assert method == "auto" or bound.method == method
    for region in (verinet.linf_ball(np.zeros(SIZE), 0.3), verinet.Ball(np.zeros(SIZE), 0.3)):
        local = verinet.lipschitz(network, method=method, region=region, timeout=4)
        _holds(local, _attained(network, _in_ball(np.zeros(SIZE), 0.3), 2))


@pytest.mark.parametrize("solver", ["verinet", "clarabel", "scs"])
def test_every_solver_proves_about_the_same(solver: str) -> None:
    network = _loaded(_dense(ACTIVATIONS["tanh"]))
    ours = verinet.lipschitz(network, method="neuron", timeout=5)
    theirs = verinet.lipschitz(network, method="neuron", solver=solver, timeout=20)
    assert theirs.upper == pytest.approx(ours.upper, rel=1e-3)
    assert theirs.method == ("neuron" if solver == "verinet" else f"neuron ({solver})")


def test_outputs_are_picked_and_combined() -> None:
    network = _loaded(_dense(ACTIVATIONS["relu"]))
    rows = np.array([[1.0, -1.0, 0.0], [0.5, 0.0, 2.0]])
    for output, matrix in ((1, np.eye(3)[[1]]), ([2, 0], np.eye(3)[[2, 0]]), (rows, rows)):
        bound = verinet.lipschitz(network, output=output, timeout=2)
        _holds(bound, _attained(network, _everywhere(SIZE), 2, matrix))
    flat = _loaded(_spec([node("Conv", "x K", "a"), node("Relu", "a", "y")], (1, 1, 4, 4), K=weights(2, 1, 3, 3)))
    single = verinet.lipschitz(flat, output=5, timeout=2)
    _holds(single, _attained(flat, _everywhere(16), 2, np.eye(8)[[5]]))


def test_the_order_and_scale_of_neurons_do_not_matter() -> None:
    first, second, third = weights(SIZE, 8), weights(8, 8, seed=1), weights(8, 3, seed=2)
    nodes = [
        node("MatMul", "x W", "a"),
        node("Relu", "a", "h"),
        node("MatMul", "h V", "b"),
        node("Relu", "b", "k"),
        node("MatMul", "k U", "y"),
    ]
    order = np.random.default_rng(0).permutation(8)
    size = np.float32(2.0) ** np.random.default_rng(1).integers(-6, 7, 8).astype(np.float32)
    variants = [
        (first, second, third),
        (first[:, order], second[order][:, order], third[order]),
        (first * size, (second / size[:, None]), third),
        (first * np.float32(1024), second / np.float32(32), third / np.float32(32)),
    ]
    found = [
        verinet.lipschitz(_loaded(_spec(nodes, W=w, V=v, U=u)), method="neuron", timeout=5).upper
        for w, v, u in variants
    ]
    assert found == pytest.approx([found[0]] * 4, rel=1e-5)


@pytest.mark.parametrize("norm", [2, "inf", (1, INF), (INF, 1)])
def test_networks_without_anything_nonlinear(norm: Any) -> None:
    matrix = weights(SIZE, 3)
    linear = verinet.lipschitz(_loaded(_spec([node("MatMul", "x W", "y")], W=matrix)), norm=norm, timeout=2)
    p, q = norm if isinstance(norm, tuple) else (float(norm), float(norm))
    assert linear.upper >= _operator_norm(matrix.T.astype(np.float64), p, q)
    assert linear.gap < 1e-6 or norm == (INF, 1)  # that program is a relaxation even of a matrix norm
    nodes = [node("MatMul", "x Z", "a"), node("Relu", "a", "h"), node("MatMul", "h W", "y")]
    zero = np.zeros((SIZE, SIZE), dtype=np.float32)
    for constant in (_spec(nodes, Z=zero, W=matrix), _spec(nodes, Z=weights(SIZE, SIZE), W=np.zeros_like(matrix))):
        bound = verinet.lipschitz(_loaded(constant), norm=norm, timeout=2)
        assert bound.upper == 0 == bound.lower and bound.gap == 0


def test_slopes_that_a_region_fixes_leave_a_linear_network() -> None:
    network = _loaded(_spec([node("MatMul", "x W", "h"), node("Relu", "h", "y")], W=np.eye(SIZE, dtype=np.float32)))
    for region in (verinet.box(np.ones(SIZE), 2 * np.ones(SIZE)), verinet.Ball(2 * np.ones(SIZE), 0.5)):
        for method in ("auto", "neuron", "recursion", "layer", "first-order", "exact"):
            assert verinet.lipschitz(network, region=region, method=method, timeout=2).upper == pytest.approx(1.0)
    below = verinet.lipschitz(network, region=verinet.box(-2 * np.ones(SIZE), -np.ones(SIZE)), timeout=2)
    assert below.upper == 0


@pytest.mark.parametrize("method", ["auto", "first-order", "neuron", "recursion"])
def test_the_clock_ends_it_with_a_bound(method: str) -> None:
    draw = np.random.default_rng(0)
    widths = (20, 90, 90, 90, 5)
    nodes, constants, last = [], {}, "x"
    for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        constants[f"W{i}"] = (draw.standard_normal((a, b)) / math.sqrt(a)).astype(np.float32)
        nodes += [node("MatMul", f"{last} W{i}", f"a{i}")]
        last = f"a{i}"
        if i < 3:
            nodes += [node("Relu", last, f"h{i}")]
            last = f"h{i}"
    nodes[-1].output[0] = "y"
    network = _loaded(_spec(nodes, (1, 20), **constants))
    begin = time.perf_counter()
    bound = verinet.lipschitz(network, method=method, timeout=0.5)
    assert time.perf_counter() - begin < 15  # the machine may be busy; alone it takes well below two seconds
    _holds(bound, _attained(network, _everywhere(20, 40), 2))
    assert math.isfinite(bound.upper)


@pytest.mark.parametrize("norm", [2, (1, INF), (INF, 1), "inf"])
def test_hardly_any_time_is_enough_for_a_bound(norm: Any) -> None:
    """With many parts left when the clock ends, one looser program covers them all."""
    network = _loaded(_conv())
    _holds(verinet.lipschitz(network, norm=norm, timeout=1e-9), _attained(network, _everywhere(16), norm))


# ---------------------------------------------------------------- implicit models


def _implicit(tmp_path: Path, scale: float = 0.4, **changes: Any) -> Path:
    draw = np.random.default_rng(3)
    a = draw.standard_normal((6, 6))
    arrays = {
        "A": scale * a / np.linalg.norm(a, 2),
        "B": draw.standard_normal((6, 3)),
        "C": draw.standard_normal((2, 6)),
        "b": draw.standard_normal(6),
        "activation": np.array("tanh"),
    }
    arrays.update(changes)
    np.savez(tmp_path / "model.npz", **{k: v for k, v in arrays.items() if v is not None})
    return tmp_path / "model.npz"


@pytest.mark.parametrize("method", ["auto", "first-order", "neuron", "exact"])
def test_implicit_models(tmp_path: Path, method: str) -> None:
    bound = verinet.lipschitz(_implicit(tmp_path), method=method, timeout=3)
    assert bound.upper >= bound.lower > 0.3 * bound.upper


@pytest.mark.parametrize("norm", NORMS)
def test_implicit_models_in_other_norms(tmp_path: Path, norm: Any) -> None:
    bound = verinet.lipschitz(_implicit(tmp_path), norm=norm, output=[1, 0], timeout=2)
    assert bound.upper >= bound.lower > 0.2 * bound.upper


@pytest.mark.parametrize("method", ["product", "recursion", "layer"])
def test_methods_that_implicit_models_have_not(tmp_path: Path, method: str) -> None:
    with pytest.raises(UsageError, match="feed-forward"):
        verinet.lipschitz(_implicit(tmp_path), method=method, timeout=1)


def test_implicit_models_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not shown to be well posed"):
        verinet.lipschitz(_implicit(tmp_path, A=2.0 * np.eye(6)))
    with pytest.raises(ModelError, match="lacks A"):
        verinet.lipschitz(_implicit(tmp_path, A=None))
    with pytest.raises(ModelError, match="does not fit"):
        verinet.lipschitz(_implicit(tmp_path, B=np.ones((5, 3))))
    with pytest.raises(UsageError, match="whole space"):
        verinet.lipschitz(_implicit(tmp_path), region=verinet.Ball(np.zeros(3), 1.0))


# ---------------------------------------------------------------- wrong use


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
    network = _loaded(_dense(ACTIVATIONS["relu"]))
    with pytest.raises((UsageError, PropertyError), match=f"(?s){words}"):
        verinet.lipschitz(network, **{"timeout": 2.0, **options})


def test_mosek_is_asked_for_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cvxpy = pytest.importorskip("cvxpy")
    monkeypatch.setattr(cvxpy, "installed_solvers", lambda: ["CLARABEL", "SCS"])
    with pytest.raises(UsageError, match="MOSEK is not installed"):
        verinet.lipschitz(_loaded(_dense(ACTIVATIONS["relu"])), solver="mosek", timeout=2)


def test_an_activation_without_finite_slope_is_named() -> None:
    network = _loaded(_dense([node("Abs", "h", "s"), node("Sqrt", "s", "g", name="root")]))
    with pytest.raises(ModelError, match=r"(?s)no finite slope.*node '(root|g)'"):
        verinet.lipschitz(network, timeout=2)


def test_a_function_that_needs_a_region_gets_one() -> None:
    nodes = [node("MatMul", "x W", "h"), node("Mul", "h h", "g"), node("MatMul", "g V", "y")]
    network = _loaded(_spec(nodes, W=weights(SIZE, 6), V=weights(6, 2, seed=1)))
    with pytest.raises(ModelError, match="give a region"):
        verinet.lipschitz(network, timeout=2)
    center = np.full(SIZE, 0.2)
    bound = verinet.lipschitz(network, region=verinet.Ball(center, 0.5), timeout=2)
    _holds(bound, _attained(network, _in_ball(center, 0.5), 2))


def test_missing_files_are_errors(tmp_path: Path) -> None:
    for name in ("none.npz", "none.onnx"):
        with pytest.raises(VerinetError, match="none"):
            verinet.lipschitz(tmp_path / name)


def test_the_record_is_plain() -> None:
    bound = verinet.lipschitz(_loaded(_dense(ACTIVATIONS["relu"])), method="neuron", timeout=3)
    record = json.loads(json.dumps(bound.to_dict(), allow_nan=False))
    assert set(record) >= {"upper", "lower", "method", "norm", "region", "gap", "seconds", "multipliers"}
    assert record["upper"] == bound.upper and len(record["multipliers"]) == 12 == sum(s.blocks for s in bound.layers)
    assert record["gap"] == pytest.approx(bound.upper / bound.lower - 1)
    assert [entry["method"] for entry in record["candidates"]] == ["neuron"]
    assert all(value > 0 for value in record["multipliers"])


# ---------------------------------------------------------------- certified radius


@pytest.mark.parametrize("name", ["relu", "tanh", "maxmin", "residual"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_point_within_the_radius_changes_the_label(name: str, seed: int) -> None:
    network = _loaded(_dense(ACTIVATIONS[name], outputs=4, seed=10 * seed))
    x = np.random.default_rng(seed).standard_normal(SIZE)
    found = verinet.radius(network, x, timeout=4)
    assert 0 < found.radius < math.inf and found.margin > 0
    graph = network.graph.to(torch.float64)
    points = torch.from_numpy(np.concatenate([_in_ball(x, found.radius, 400), [x]])).requires_grad_()
    for _ in range(60):  # downhill on the margin, back into the ball
        values = graph.forward(points)
        others = values.clone()
        others[:, found.label] = -math.inf
        margin = values[:, found.label] - others.amax(1)
        assert float(margin.detach().min()) > 0
        (slope,) = torch.autograd.grad(margin.sum(), points)
        moved = points - 0.2 * found.radius * slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-300) - points.new(x)
        length = moved.norm(dim=1, keepdim=True).clamp(min=1e-300)
        points = (points.new(x) + moved * (found.radius / length).clamp(max=1.0)).detach().requires_grad_()


def test_the_radius_of_a_linear_network_is_the_distance_to_the_boundary() -> None:
    matrix = weights(SIZE, 3)
    x = np.array([0.4, -0.3, 0.2, 0.9])
    scores = x @ matrix.astype(np.float64)
    best = int(scores.argmax())
    distances = [
        (scores[best] - scores[j]) / np.linalg.norm(matrix[:, best].astype(np.float64) - matrix[:, j])
        for j in range(3)
        if j != best
    ]
    found = verinet.radius(_loaded(_spec([node("MatMul", "x W", "y")], W=matrix)), x, timeout=3)
    assert found.label == best and found.radius <= min(distances)
    assert found.radius == pytest.approx(min(distances), rel=1e-6)


def test_a_wrong_label_has_radius_zero() -> None:
    network = _loaded(_dense(ACTIVATIONS["relu"]))
    x = np.zeros(SIZE)
    right = verinet.radius(network, x, timeout=2)
    wrong = verinet.radius(network, x, label=(right.label + 1) % 3, timeout=2)
    assert right.radius > 0 and wrong.radius == 0 and wrong.margin < 0
    twins = np.repeat(weights(SIZE, 1), 2, axis=1)  # a tie is no certain label
    assert verinet.radius(_loaded(_spec([node("MatMul", "x W", "y")], W=twins)), np.ones(SIZE)).radius == 0
    json.dumps(right.to_dict())


def test_a_label_that_nothing_changes_has_an_infinite_radius() -> None:
    nodes = [node("MatMul", "x Z", "h"), node("Add", "h b", "y")]
    constant = _spec(nodes, Z=np.zeros((SIZE, 2), dtype=np.float32), b=np.array([1, 2], dtype=np.float32))
    assert verinet.radius(_loaded(constant), np.ones(SIZE), timeout=2).radius == INF


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.zeros(3), {}, "3 numbers, the network takes 4"),
        (np.full(4, math.nan), {}, "finite input"),
        (np.zeros(4), {"label": 7}, "no output 7"),
        (np.zeros(4), {"timeout": 0.0}, "positive number"),
    ],
)
def test_wrong_use_of_radius(x: np.ndarray, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        verinet.radius(_loaded(_dense(ACTIVATIONS["relu"])), x, **options)


def test_radius_needs_outputs_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two outputs"):
        verinet.radius(_loaded(_dense(ACTIVATIONS["relu"], outputs=1)), np.zeros(SIZE))
    with pytest.raises(UsageError, match="ONNX network"):
        verinet.radius(_implicit(tmp_path), np.zeros(3))


# ---------------------------------------------------------------- published values


def _cases() -> list[dict[str, str]]:
    path = Path(__file__).resolve().parents[4] / "shared" / "bench" / "lipschitz" / "values.csv"
    return list(csv.DictReader(path.open())) if path.is_file() else [{"file": "missing"}]


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.parametrize("case", _cases(), ids=lambda case: case["file"])
def test_the_benchmark_values(case: dict[str, str], bench_folder: Path) -> None:
    """Certified, at least what is attained or exact, at most the value of the program."""
    path = bench_folder / "lipschitz" / case["file"]
    region = None
    if "box" in case["note"]:
        with np.load(path.with_name(path.stem + "_box.npz")) as stored:
            region = verinet.box(stored["lower"], stored["upper"])
    norm = "inf" if case["norm"] == "linf" else 2
    bound = verinet.lipschitz(path, norm=norm, region=region, timeout=20)
    least = max(float(case["lower"] or 0), float(case["fgl"] or 0) * (1 - 1e-7))
    assert bound.upper <= float(case["sdp"]) * (1 + 1e-4)
    assert bound.upper >= bound.lower and bound.upper >= float(case["lower"] or 0) * (1 - 1e-8)
    if bound.method != "exact":
        assert bound.upper >= least * (1 - 1e-7)
