"""Choices, masks, comparisons of integers, positions of maxima and computed positions agree with ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from tests.unit.frontends.onnx_models import Spec, ints, node, weights
from verinet.errors import UnsupportedOperatorError
from verinet.frontends.crosscheck import compare_with_onnxruntime, open_session, run_session
from verinet.frontends.model import Model
from verinet.frontends.onnx import inspect_onnx, load_onnx
from verinet.ops.scalar import DomainError
from verinet.ops.sorting.remainder import Remainder
from verinet.propagation.interval import interval_pass
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def functions(model: Model) -> Counter[str]:
    """How often each scalar function occurs."""
    return Counter(n.op.function.name for n in model.graph.nodes if hasattr(n.op, "function"))


def agree(model: Model, samples: np.ndarray, tolerance: float = 1e-6) -> None:
    """Every sample by itself: a comparison of networks with jumps is content with the best of several."""
    for sample in samples:
        assert compare_with_onnxruntime(model, sample[None]) <= tolerance


def samples_for(model: Model, ties: bool = True) -> np.ndarray:
    found = np.random.default_rng(5).normal(size=(8, model.graph.input_size)) * 1.5
    if ties:
        found[4:] = np.round(found[4:])
    return found


def integers(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Nodes behind a cast of x to integers "n", with their result "r" cast back to numbers."""
    return [node("Cast", "x", "n", to=INT64), *nodes, node("Cast", "r", "y", to=FLOAT)]


POSITIONS = [
    *(
        Spec(f"{op} axis {axis} keep {keep} last {last}", [
            node(op, "x", "r", axis=axis, keepdims=keep, select_last_index=last),
            node("Cast", "r", "y", to=FLOAT),
        ], {"x": shape})
        for op in ("ArgMax", "ArgMin")
        for axis, keep, last, shape in ((1, 1, 0, (1, 4)), (0, 0, 1, (3, 2)), (-1, 0, 0, (2, 2)), (1, 0, 1, (1, 5, 2)))
    ),
    Spec("ArgMax of one", [node("ArgMax", "x", "r", axis=0), node("Cast", "r", "y", to=FLOAT)], {"x": (1, 3)}),
    Spec("OneHot of ArgMax", [
        node("ArgMax", "x", "r", axis=1, keepdims=0), node("OneHot", "r d v", "y", axis=-1)
    ], {"x": (2, 3)}, {"d": ints(3), "v": np.array([0.5, 2.0], dtype=np.float32)}),
    Spec("OneHot on the first axis", [node("Cast", "x", "n", to=INT64), node("OneHot", "n d v", "y", axis=0)],
         {"x": (5,)}, {"d": ints(3), "v": np.array([0.0, 1.0], dtype=np.float32)}),
    Spec("Gather from a constant", [node("Clip", "x a b", "c"), node("Cast", "c", "n", to=INT64),
         node("Gather", "w n", "y", axis=1)], {"x": (2, 2)},
         {"w": weights(2, 4, 3), "a": np.float32(-3.0), "b": np.float32(3.0)}),
    Spec("Gather from a variable", [node("ArgMax", "x", "r", axis=0, keepdims=0), node("Gather", "x r", "y", axis=0)],
         {"x": (3, 2)}),
    Spec("Gather a scalar position", [node("Slice", "x s e", "h"), node("Reshape", "h o", "g"),
         node("ArgMax", "g", "r", axis=0, keepdims=0), node("Gather", "w r", "y")],
         {"x": (4,)}, {"s": ints(0), "e": ints(3), "o": ints(3), "w": weights(3, 2)}),
]  # fmt: skip

COMPARISONS = [
    *(
        Spec(f"{op} of integers and {other}", integers(node(op, f"n {other}", "r")), {"x": (6,)}, {"c": ints(1)})
        for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal")
        for other in ("c", "m")
    ),
    *(
        Spec(f"{op} of numbers", [node(op, "x c", "r"), node("Cast", "r", "y", to=FLOAT)], {"x": (6,)},
             {"c": np.float32([0.0, 1.0, -1.0, 0.5, 0.25, 2.0])})
        for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal")
    ),
    Spec("a cast of integers to bool", integers(node("Cast", "n", "b", to=BOOL), node("Not", "b", "r")), {"x": (6,)}),
    Spec("a cast of numbers to bool", [node("Cast", "x", "b", to=BOOL), node("Cast", "b", "y", to=FLOAT)], {"x": (6,)}),
    Spec("And, Or, Xor, Not", [
        node("Greater", "x c", "p"), node("Less", "x d", "q"), node("And", "p q", "a"), node("Or", "a q", "o"),
        node("Xor", "o p", "e"), node("Not", "e", "r"), node("Cast", "r", "y", to=FLOAT),
    ], {"x": (6,)}, {"c": np.float32(0.0), "d": np.float32(1.0)}),
    Spec("Equal of flags", [
        node("Greater", "x c", "p"), node("Less", "x d", "q"), node("Equal", "p q", "r"),
        node("Cast", "r", "y", to=FLOAT),
    ], {"x": (6,)}, {"c": np.float32(0.0), "d": np.float32(1.0)}),
    Spec("Sign of integers", integers(node("Sign", "n", "r")), {"x": (6,)}),
    *(
        Spec(f"Mod {c} fmod {fmod}", integers(node("Mod", "n c", "r", fmod=fmod)), {"x": (6,)}, {"c": ints(c)})
        for c in (3, -3, 2, 1)
        for fmod in (0, 1)
    ),
    Spec("Equal of an integer and a number", [
        node("Cast", "x", "n", to=INT64), node("Cast", "n", "f", to=FLOAT), node("Equal", "x f", "r"),
        node("Cast", "r", "y", to=FLOAT),
    ], {"x": (6,)}),
    Spec("Mod of numbers", [node("Mod", "x c", "y", fmod=1)], {"x": (6,)}, {"c": np.float32(0.75)}),
    *(Spec(op, [node(op, "x", "y")], {"x": (6,)}) for op in ("Sign", "Floor", "Ceil", "Round")),
    *(
        Spec(f"Sign(Sign(x) + {c})", [node("Sign", "x", "a"), node("Add", "a c", "b"), node("Sign", "b", "y")],
             {"x": (6,)}, {"c": np.float32(c)})
        for c in (0.1, -0.5, 1.0, 0.0)
    ),
]  # fmt: skip


def _with_second_integer(case: Spec) -> Spec:
    """Where a node reads "m": a second integer, made of the first entries in another order."""
    if not any("m" in n.input for n in case.nodes):
        return case
    more = [node("Gather", "x back", "z"), node("Cast", "z", "m", to=INT64)]
    constants = {k: v for k, v in case.constants.items() if k != "c"} | {"back": ints(1, 0, 3, 2, 5, 4)}
    return Spec(case.name, [*more, *case.nodes], case.inputs, constants)


@pytest.mark.parametrize("case", [*POSITIONS, *map(_with_second_integer, COMPARISONS)], ids=lambda case: case.name)
def test_agrees_with_onnxruntime(case: Spec) -> None:
    model = load_onnx(case.model())
    assert all(record.status != "unsupported" for record in model.records)
    samples = samples_for(model)
    samples[6] = 0.0
    agree(model, samples)


def test_equality_of_integers_needs_no_jump() -> None:
    model = load_onnx(Spec("e", integers(node("Equal", "n c", "r")), {"x": (2,)}, {"c": ints(1)}).model())
    assert functions(model)["Hat"] == 1 and functions(model)["Sign"] == 0


def test_an_integer_beside_a_fixed_number_needs_no_jump_either() -> None:
    chain = [node("ArgMax", "x", "n", axis=0, keepdims=0), node("Cast", "n", "f", to=FLOAT)]
    chain += [node("Equal", "f z", "r"), node("Cast", "r", "y", to=FLOAT)]
    graph = load_onnx(Spec("e", chain, {"x": (3,), "z": ()}).model()).graph.to(torch.float64)
    low = torch.tensor([[0.0, 2.0, 1.0, 1.0]], dtype=torch.float64)
    least, most = interval_pass(graph, low, low + torch.tensor([0.5, 0.5, 0.5, 0.0]))[-1]
    assert float(least) == pytest.approx(1.0) and float(most) == pytest.approx(1.0)


def test_a_doubled_sign_is_one_step() -> None:
    chain = [node("Sign", "x", "a"), node("Add", "a c", "b"), node("Sign", "b", "y")]
    model = load_onnx(Spec("s", chain, {"x": (3,)}, {"c": np.float32(0.1)}).model())
    assert functions(model).total() == 1
    zero = torch.zeros(1, 3, dtype=torch.float64)
    assert model.graph.to(torch.float64).forward(zero).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("between", [[], ["Sigmoid"], ["Softmax", "Transpose"]])
def test_softmax_and_rising_functions_before_an_argmax_change_nothing(between: Sequence[str]) -> None:
    names = ["x", *(f"h{i}" for i in range(len(between)))]
    made = [
        node(
            op,
            names[i],
            names[i + 1],
            **({"perm": [0, 2, 1]} if op == "Transpose" else {"axis": 1} if op == "Softmax" else {}),
        )
        for i, op in enumerate(between)
    ]
    axis = 2 if "Transpose" in between else 1
    chain = [*made, node("ArgMax", names[-1], "r", axis=axis), node("Cast", "r", "y", to=FLOAT)]
    model = load_onnx(Spec("argmax", chain, {"x": (1, 3, 2)}).model())
    assert set(functions(model)) == {"Step", "ReLU"}
    agree(model, samples_for(model, ties=False))


def test_a_softmax_over_another_axis_stays() -> None:
    chain = [node("Softmax", "x", "h", axis=2), node("ArgMax", "h", "r", axis=1), node("Cast", "r", "y", to=FLOAT)]
    model = load_onnx(Spec("argmax", chain, {"x": (1, 3, 2)}).model())
    assert any(type(n.op).__name__ == "Softmax" for n in model.graph.nodes)
    agree(model, samples_for(model, ties=False))


def reflection(kind: str, angle: np.ndarray, exact: bool) -> Spec:
    """A Householder activation on pairs, as Where, as masks, or with the reflected vector written by cosines."""
    half = np.stack([np.sin(angle / 2), -np.cos(angle / 2)], -1).astype(np.float32)
    constants = {"v": half, "two": np.float32(2.0), "zero": np.float32(0.0), "last": ints(-1), "pairs": ints(1, -1, 2)}
    chain = [node("Reshape", "x pairs", "p"), node("Mul", "p v", "m"), node("ReduceSum", "m last", "t", keepdims=1)]
    if exact:  # x - 2 v (v x)
        chain += [node("Mul", "t two", "d"), node("Mul", "d v", "e"), node("Sub", "p e", "h")]
    else:  # the same by a matrix with rounded entries
        rows = np.stack(
            [np.stack([np.cos(angle), np.sin(angle)], -1), np.stack([np.sin(angle), -np.cos(angle)], -1)], -1
        )
        constants |= {
            "first": ints(0),
            "second": ints(1),
            "a": rows[:, 0].astype(np.float32),
            "b": rows[:, 1].astype(np.float32),
        }
        chain += [node("Gather", "p first", "p1", axis=2), node("Gather", "p second", "p2", axis=2)]
        chain += [node("Mul", "p1 a", "h1"), node("Mul", "p2 b", "h2"), node("Add", "h1 h2", "h")]
    if kind == "where":
        chain += [node("Greater", "t zero", "g"), node("Where", "g p h", "y")]
    elif kind == "where not":
        chain += [node("LessOrEqual", "t zero", "g"), node("Where", "g h p", "y")]
    else:
        chain += [node("LessOrEqual", "t zero", "g"), node("Cast", "g", "q", to=FLOAT), node("Greater", "t zero", "f")]
        chain += [node("Cast", "f", "r", to=FLOAT), node("Mul", "q h", "u"), node("Mul", "r p", "w")]
        chain += [node("Add", "u w" if kind == "masks" else "w u", "y")]
    return Spec(f"{kind} {exact}", chain, {"x": (1, 2 * angle.size)}, constants)


@pytest.mark.parametrize("kind", ["where", "where not", "masks", "masks in the other order"])
@pytest.mark.parametrize("exact", [True, False])
def test_a_reflection_is_one_absolute_value_around_linear_maps(kind: str, exact: bool) -> None:
    case = reflection(kind, np.linspace(-2.0, 3.0, 5), exact)
    model = load_onnx(case.model())
    assert functions(model) == Counter({"Abs": 1})
    assert sum(isinstance(n.op, Remainder) for n in model.graph.nodes) == (0 if exact else 1)
    agree(model, samples_for(model), 1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_bounds_of_a_reflection_hold_and_are_those_of_an_absolute_value(exact: bool) -> None:
    graph = load_onnx(reflection("where", np.linspace(-2.0, 3.0, 5), exact).model()).graph.to(torch.float64)
    draw = torch.Generator().manual_seed(0)
    centre = torch.randn(10, generator=draw, dtype=torch.float64) * 0.2
    low, high = centre - 0.4, centre + 0.4
    layers = Sweeper(build_backward(graph, low, high), targets=[graph.output]).sweep(
        low[None], high[None], SweepOptions()
    )
    least, most = layers.known[graph.output]
    points = low + (high - low) * torch.rand(20_000, 10, generator=draw, dtype=torch.float64)
    values = graph.forward(points)
    assert bool((least <= values).all()) and bool((values <= most).all())
    width = values.amax(0) - values.amin(0)
    assert float(((most - least)[0] / width).max()) < 2.5  # by a product of the mask it would be far more


def test_masks_of_unrelated_maps_are_left_alone() -> None:
    chain = [node("Greater", "x c", "g"), node("Mul", "x w", "h"), node("Where", "g x h", "y")]
    constants = {"c": np.float32(0.5), "w": np.float32(-1.0)}
    model = load_onnx(Spec("other", chain, {"x": (4,)}, constants).model())
    assert functions(model)["Step"] == 1
    agree(model, samples_for(model))


def patch(size: int) -> Spec:
    """Zeros scattered into a constant mask at a window whose corner is cast from two inputs; both are summed up."""
    ends = [node("Add", f"{p} size", f"{p}e") for p in ("p", "q")]
    flat = [node("Unsqueeze", f"{name} first", f"{name}u") for name in ("p", "pe", "q", "qe")]
    chain = [
        node("Gather", "x zero", "a"), node("Cast", "a", "p", to=INT64),
        node("Gather", "x one", "b"), node("Cast", "b", "q", to=INT64), *ends, *flat,
        node("Slice", "rows pu peu first", "r"), node("Slice", "columns qu qeu first", "c"),
        node("Reshape", "r tall", "rt"), node("Add", "rt c", "cells"), node("Shape", "cells", "shape"),
        node("Expand", "nothing shape", "updates"), node("Reshape", "cells list", "places"),
        node("Reshape", "updates flat", "new"), node("ScatterND", "mask places new", "scattered"),
        node("Mul", "scattered w", "m"), node("ReduceSum", "m first", "total", keepdims=1),
        node("Mul", "scattered scale", "n"), node("Concat", "total n", "y", axis=0),
    ]  # fmt: skip
    constants = {
        "zero": np.int64(0), "one": np.int64(1), "first": ints(0), "size": np.int64(size), "tall": ints(-1, 1),
        "rows": np.arange(3, dtype=np.int64) * 4, "columns": np.arange(4, dtype=np.int64), "list": ints(-1, 1),
        "nothing": np.zeros((1, 1), dtype=np.float32), "flat": ints(-1), "mask": np.ones(12, dtype=np.float32),
        "w": weights(12), "scale": np.float32(2.0),
    }  # fmt: skip
    return Spec(f"patch {size}", chain, {"x": (2,)}, constants)


@pytest.mark.parametrize("size", [1, 2])
def test_a_slice_from_a_computed_start_is_tabulated(size: int) -> None:
    model = load_onnx(patch(size).model())
    assert functions(model)["Position"] == 2
    starts = np.stack(np.meshgrid(np.arange(0, 6.0), np.arange(0, 7.0)), -1).reshape(-1, 2)
    agree(model, np.concatenate([starts, starts + 0.75]))
    assert functions(load_onnx(patch(size).model()))["Hat"] == 2


def test_bounds_of_a_tabulated_part_hold_and_close_on_single_cases() -> None:
    graph = load_onnx(patch(2).model()).graph.to(torch.float64)
    draw = torch.Generator().manual_seed(1)
    for _ in range(20):
        low = torch.rand(2, generator=draw, dtype=torch.float64) * 4
        high = low + torch.rand(2, generator=draw, dtype=torch.float64) * 3
        least, most = interval_pass(graph, low[None], high[None])[-1]
        values = graph.forward(low + (high - low) * torch.rand(300, 2, generator=draw, dtype=torch.float64))
        assert bool((least <= values).all()) and bool((values <= most).all())
    one = torch.tensor([[1.25, 2.5]], dtype=torch.float64)
    least, most = interval_pass(graph, one, one + 0.25)[-1]
    assert float((most - least).max()) < 1e-12


def test_positions_below_zero_are_refused_by_the_bounds() -> None:
    graph = load_onnx(patch(1).model()).graph.to(torch.float64)
    with pytest.raises(DomainError, match="Position"):
        interval_pass(graph, torch.tensor([[-2.0, 0.0]]).double(), torch.tensor([[1.0, 1.0]]).double())


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ([node("NonZero", "x", "i"), node("Cast", "i", "y", to=FLOAT)], "the shape of its result depends"),
        ([node("Cast", "x", "n", to=INT64), node("Slice", "x n e", "y")], "depends on the network's input"),
        ([node("Gather", "w x", "y")], "not integers"),
    ],
)
def test_what_cannot_be_bounded_says_why(chain: Sequence[onnx.NodeProto], words: str) -> None:
    model = Spec("refused", chain, {"x": (1,)}, {"e": ints(1), "w": weights(4)}).model()
    with pytest.raises(UnsupportedOperatorError, match=words):
        load_onnx(model)
    assert any(record.status == "unsupported" for record in inspect_onnx(model))


def test_a_start_without_a_matching_end_is_refused() -> None:
    chain = [node("Cast", "x", "n", to=INT64), node("Slice", "w n e", "y")]
    with pytest.raises(UnsupportedOperatorError, match="another step or end"):
        load_onnx(Spec("open end", chain, {"x": (1,)}, {"e": ints(4), "w": weights(4)}).model())


def test_computed_cases_run_as_in_the_original() -> None:
    """The first case by hand: the window's corner at (1, 2) clears cells 6 and 7, 10 and 11."""
    model = load_onnx(patch(2).model())
    point = np.array([1.9, 2.1])
    found = model.graph.to(torch.float64).forward(torch.from_numpy(point)[None])[0].numpy()
    assert np.flatnonzero(found[1:] == 0).tolist() == [6, 7, 10, 11]
    assert np.allclose(found, run_session(open_session(model), model, point), atol=1e-6)


PATCHES = ["patch-1", "patch-3"]


@pytest.mark.bench
@pytest.mark.parametrize("name", PATCHES)
def test_patched_pictures_agree_at_every_position(bench_folder: Path, name: str) -> None:
    """Inputs 12288 and 12289 are cast to the corner of a patch; the rest is a picture, a class and a box."""
    model = load_onnx(next((bench_folder / "vnncomp" / "cctsdb_yolo_2023").glob(f"onnx/{name}.onnx*")))
    draw = np.random.default_rng(2)
    points = draw.uniform(0, 1, size=(24, model.graph.input_size))
    points[:, 12288] = draw.integers(0, 5, size=24) + np.where(np.arange(24) % 2, 0.7, 0.0)
    points[:, 12289] = draw.integers(0, 66, size=24)
    points[:, 12290:] = [0, 0, 0.15, 0.12, 0.86, 0.9]
    points[:, 12291] = np.arange(24) % 3
    found = model.graph.to(torch.float64).forward(torch.from_numpy(points.astype(np.float32)).double()).numpy()
    session = open_session(model)
    expected = np.stack([run_session(session, model, point) for point in points])
    assert np.allclose(found, expected, atol=1e-5) and (expected > 0.01).any()


@pytest.mark.bench
@pytest.mark.parametrize("family", ["carvana_unet_2022", "traffic_signs_recognition_2023"])
def test_networks_with_decisions_inside_agree(bench_folder: Path, family: str) -> None:
    draw = np.random.default_rng(3)
    for path in sorted((bench_folder / "vnncomp" / family / "onnx").iterdir()):
        model = load_onnx(path)
        scale = 1.0 if family.startswith("carvana") else 255.0
        points = np.round(draw.uniform(0, scale, size=(2, model.graph.input_size)), 2)
        if family.startswith("carvana"):
            points[:, -points.shape[1] // 4 :] = np.round(points[:, -points.shape[1] // 4 :])  # the mask is 0 or 1
        assert compare_with_onnxruntime(model, points) < 1e-3


@pytest.mark.bench
@pytest.mark.parametrize("name", ["householder_mlp", "householder_mlp_dynamo"])
def test_exported_householder_layers_have_one_absolute_value_each(bench_folder: Path, name: str) -> None:
    model = load_onnx(bench_folder / "digits" / "onnx" / f"{name}.onnx")
    assert functions(model) == Counter({"Abs": 3})
    assert compare_with_onnxruntime(model, np.random.default_rng(0).uniform(0, 1, size=(3, 64))) < 1e-5
