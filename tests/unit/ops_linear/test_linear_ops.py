"""Every linear operator: adjoint identity, magnitude against a dense |L|, shapes, and the rounding count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from verinet.ir.graph import Shape, total
from verinet.ops.base import LinearOp
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract
from verinet.ops.linear.conv import Convolution, TransposedConvolution
from verinet.ops.linear.dense import Dense, MatMulConst
from verinet.ops.linear.reduce import Sum, WindowSum
from verinet.ops.linear.windows import Windows
from verinet.ops.shape.concat import Concat
from verinet.ops.shape.index import Index, Repeat, index_op
from verinet.ops.shape.reshape import Broadcast, Reshape


@dataclass(frozen=True)
class Case:
    name: str
    op: LinearOp
    inputs: tuple[Shape, ...]
    out: Shape


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def windows(kernel, strides, dilations, begin, end, spatial) -> Windows:
    rows = zip(spatial, kernel, strides, dilations, begin, end, strict=True)
    out = tuple((n + b + e - d * (k - 1) - 1) // s + 1 for n, k, s, d, b, e in rows)
    return Windows(kernel, strides, dilations, begin, end, out)


def conv(name: str, geometry: Windows, spatial: Shape, channels: tuple[int, int], groups: int = 1) -> Case:
    ins, outs = channels
    weight = randn(outs, ins // groups, *geometry.kernel)
    op = Convolution(weight, geometry, groups, randn(outs))
    return Case(f"conv {name}", op, ((1, ins, *spatial),), (1, outs, *geometry.out))


def transposed(name: str, geometry: Windows, spatial: Shape, channels: tuple[int, int], groups: int = 1) -> Case:
    ins, outs = channels
    weight = randn(ins, outs // groups, *geometry.kernel)
    op = TransposedConvolution(weight, geometry, spatial, groups)
    return Case(f"transposed {name}", op, ((1, ins, *geometry.out),), (1, outs, *spatial))


def geometries() -> list[tuple[str, Windows, Shape]]:
    return [
        ("1-D", windows((3,), (2,), (1,), (1,), (0,), (8,)), (8,)),
        ("plain", windows((3, 3), (1, 1), (1, 1), (1, 1), (1, 1), (5, 6)), (5, 6)),
        ("strided, uneven pads", windows((3, 2), (2, 3), (1, 1), (0, 2), (1, 1), (6, 7)), (6, 7)),
        ("entries never seen", windows((2, 2), (3, 3), (1, 1), (0, 0), (0, 0), (7, 8)), (7, 8)),
        ("dilated", windows((2, 3), (1, 2), (2, 1), (1, 0), (1, 2), (6, 6)), (6, 6)),
        ("pointwise", windows((1, 1), (1, 1), (1, 1), (0, 0), (0, 0), (4, 3)), (4, 3)),
        ("cropping pads", windows((2, 2), (1, 1), (1, 1), (-1, 0), (0, -1), (5, 5)), (5, 5)),
        ("3-D", windows((2, 2, 2), (1, 2, 1), (1, 1, 1), (0, 1, 0), (0, 0, 1), (3, 4, 3)), (3, 4, 3)),
    ]


def all_cases() -> list[Case]:
    cases = [
        Case("dense", Dense(randn(5, 7), randn(7)), ((1, 5),), (1, 7)),
        Case("dense, three axes", Dense(randn(5, 2)), ((3, 4, 5),), (3, 4, 2)),
        Case("dense, vector", Dense(randn(5, 2)), ((5,),), (2,)),
        Case("matmul right", MatMulConst(randn(3, 5, 2)), ((3, 4, 5),), (3, 4, 2)),
        Case("matmul left", MatMulConst(randn(4, 5), True), ((3, 5, 2),), (3, 4, 2)),
        Case("matmul repeats x", MatMulConst(randn(3, 5, 2)), ((4, 5),), (3, 4, 2)),
        Case("matmul left repeats x", MatMulConst(randn(2, 3, 4, 5), True), ((3, 5, 2),), (2, 3, 4, 2)),
        Case("add", Add(), ((2, 3), (2, 3)), (2, 3)),
        Case("add, broadcast", Add(), ((1, 3), (4, 2, 1)), (4, 2, 3)),
        Case("subtract", Subtract(), ((2, 3), (3,)), (2, 3)),
        Case("scale", Scale(randn(3, 1)), ((2, 3, 4),), (2, 3, 4)),
        Case("shift", Shift(randn(3, 1)), ((2, 3, 4),), (2, 3, 4)),
        Case("negate", Negate(), ((2, 3),), (2, 3)),
        Case("sum", Sum((0, 2)), ((2, 3, 4),), (1, 3, 1)),
        Case("sum, axes dropped", Sum((1,), False), ((2, 3, 4),), (2, 4)),
        Case("reshape", Reshape((3, 8)), ((2, 3, 4),), (3, 8)),
        Case("broadcast", Broadcast((2, 3, 4)), ((3, 1),), (2, 3, 4)),
        Case("concat", Concat(1), ((2, 3), (2, 1), (2, 4)), (2, 8)),
        *index_cases(),
    ]
    for name, geometry, spatial in geometries():
        cases += [conv(name, geometry, spatial, (4, 6)), conv(f"{name}, groups", geometry, spatial, (4, 6), 2)]
        cases += [
            transposed(name, geometry, spatial, (4, 2)),
            transposed(f"{name}, groups", geometry, spatial, (4, 2), 2),
        ]
        cases.append(Case(f"window sum {name}", WindowSum(geometry), ((1, 2, *spatial),), (1, 2, *geometry.out)))
    return cases


def index_cases() -> list[Case]:
    numbers = torch.arange(24).reshape(2, 3, 4)
    picked = {
        "run": numbers[1],
        "transpose": numbers.permute(2, 0, 1).contiguous(),
        "some": numbers[:, ::2, 1:3].contiguous(),
        "zeros": torch.nn.functional.pad(numbers, (1, 2), value=-1),
        "stepped slice": numbers[:, 1::2, ::3].contiguous(),
        "backwards": numbers.flip(2).contiguous(),
        "scalar": torch.tensor(5),
        "column": numbers[:, :, 1:2].contiguous(),
        "overlapping windows": numbers.reshape(24).unfold(0, 4, 2).contiguous(),
        "broadcast": numbers[:1].expand(5, 3, 4).contiguous(),
        "zeros only": torch.full((3,), -1),
        "repeats": numbers[[0, 0, 1]],
        "repeats few": torch.tensor([3, 3, 3, 7]),
        "repeats and zeros": torch.tensor([[0, -1, 0], [5, 5, -1]]),
    }
    return [Case(f"index {k}", index_op(v, 24), ((2, 3, 4),), tuple(v.shape)) for k, v in picked.items()]


CASES = all_cases()


def matrices(case: Case) -> list[torch.Tensor]:
    """The dense matrix of each input, by unit vectors: (out, in)."""
    found = []
    zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in case.inputs]
    for place, shape in enumerate(case.inputs):
        size = total(shape)
        units = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        others = [units if i == place else z.expand(size, *z.shape[1:]) for i, z in enumerate(zeros)]
        found.append(case.op.linear(*others).reshape(size, -1).T)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pullback_is_the_adjoint(case: Case) -> None:
    x = [torch.randn(1, *shape, dtype=torch.float64) for shape in case.inputs]
    rows = torch.randn(3, *case.out, dtype=torch.float64)
    pulled = case.op.pullback(rows, case.inputs)
    value = case.op.linear(*x)
    assert tuple(value.shape) == (1, *case.out)
    assert [tuple(p.shape) for p in pulled] == [(3, *shape) for shape in case.inputs]
    left = (rows * value).reshape(3, -1).sum(1)
    right = sum((p * v).reshape(3, -1).sum(1) for p, v in zip(pulled, x, strict=True))
    size = 1 + (rows.abs() * value.abs()).reshape(3, -1).sum(1)
    assert float(((left - right).abs() / size).max()) < 1e-12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_magnitude_is_the_absolute_matrix(case: Case) -> None:
    radii = [torch.rand(2, *shape, dtype=torch.float64) for shape in case.inputs]
    expected = sum(r.reshape(2, -1) @ m.abs().T for r, m in zip(radii, matrices(case), strict=True))
    found = case.op.magnitude(*radii).reshape(2, -1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_adds_the_bias(case: Case) -> None:
    x = [torch.randn(2, *shape, dtype=torch.float64) for shape in case.inputs]
    bias = case.op.bias()
    expected = case.op.linear(*x) + (0.0 if bias is None else bias.expand(case.out))
    torch.testing.assert_close(case.op.forward(*x), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_terms_count_at_least_the_entries_of_a_dot_product(case: Case) -> None:
    """An entry that is a sum of n products has up to n roundings behind it, products included."""
    if case.op.moves_only:
        return
    longest = 0
    for matrix in matrices(case):
        used = matrix != 0
        longest = max(longest, int(used.sum(0).max()), int(used.sum(1).max()))
    if len(case.inputs) == 2:
        longest += 1
    assert case.op.terms(case.inputs, case.out) >= longest + 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32_agrees_with_float64(case: Case) -> None:
    single = case.op.to(torch.float32, torch.device("cpu"))
    x = [torch.randn(2, *shape, dtype=torch.float64) for shape in case.inputs]
    rows = torch.randn(3, *case.out, dtype=torch.float64)
    value = single.forward(*(v.float() for v in x))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), case.op.forward(*x), rtol=1e-4, atol=1e-4)
    for found, expected in zip(
        single.pullback(rows.float(), case.inputs), case.op.pullback(rows, case.inputs), strict=True
    ):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", [c for c in CASES if c.op.diagonal], ids=lambda case: case.name)
def test_diagonal_operators_are_diagonal(case: Case) -> None:
    for matrix in matrices(case):
        assert int((matrix != 0).sum(1).max()) <= 1


def test_index_with_repeats_is_not_called_diagonal() -> None:
    assert isinstance(index_op(torch.tensor([0, 0, 1]), 3), Repeat)
    assert type(index_op(torch.tensor([2, 0, 1, -1, -1]), 3)) is Index


def test_large_batches_are_split_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    from verinet.ops.linear import conv as module

    case = conv("plain", *geometries()[1][1:], channels=(4, 6))
    x, rows = randn(5, *case.inputs[0]), randn(5, *case.out)
    whole: Sequence[torch.Tensor] = [case.op.linear(x), *case.op.pullback(rows, case.inputs)]
    monkeypatch.setattr(module, "_CHUNK", {"cpu": 1})
    parts = [case.op.linear(x), *case.op.pullback(rows, case.inputs)]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
