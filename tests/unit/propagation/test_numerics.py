"""Rounding charges and the recognition of exhausted memory."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verinet.numerics.memory import out_of_memory, release
from verinet.numerics.rounding import down, gamma, tiny, unit_roundoff, up

DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_unit_roundoff_is_half_the_gap_after_one(dtype: torch.dtype) -> None:
    one = torch.ones((), dtype=dtype)
    gap = float(torch.nextafter(one, 2 * one) - one)
    assert unit_roundoff(dtype) == gap / 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("terms", [0, 1, 7, 1000, 10**6])
def test_gamma_is_at_least_the_exact_formula(dtype: torch.dtype, terms: int) -> None:
    unit = Fraction(unit_roundoff(dtype))
    exact = terms * unit / (1 - terms * unit)
    assert exact <= Fraction(gamma(terms, dtype)) <= exact * (1 + Fraction(1, 2)) + 4 * unit


def test_gamma_refuses_sums_that_are_too_long() -> None:
    with pytest.raises(ValueError, match="too many"):
        gamma(2**23, torch.float32)
    assert gamma(2**23, torch.float64) < 1e-9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("terms", [3, 100, 5000])
def test_gamma_covers_dot_products(dtype: torch.dtype, terms: int) -> None:
    draw = torch.Generator().manual_seed(terms)
    for _ in range(5):
        a = torch.randn(terms, generator=draw).to(dtype)
        b = torch.randn(terms, generator=draw).to(dtype)
        products = [Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        error = abs(Fraction(float(a @ b)) - sum(products))
        assert error <= Fraction(gamma(terms, dtype)) * sum(map(abs, products))


@pytest.mark.parametrize("dtype", DTYPES)
@given(value=st.floats(-1e30, 1e30), ulps=st.integers(1, 16))
def test_down_and_up_move_by_units_in_the_last_place(dtype: torch.dtype, value: float, ulps: int) -> None:
    x = torch.tensor(value, dtype=dtype)
    low, high = down(x, ulps), up(x, ulps)
    assert float(low) < float(x) < float(high)
    step = torch.nextafter(x.abs(), torch.tensor(torch.inf, dtype=dtype)) - x.abs()
    if float(step) > 1e3 * tiny(dtype):
        assert float(x.double() - low.double()) >= (ulps - 1) * float(step)
        assert float(x.double() - low.double()) <= 3 * (ulps + 1) * float(step)
    assert float(up(-x, ulps)) == -float(low)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiny_is_far_above_underflow(dtype: torch.dtype) -> None:
    assert tiny(dtype) > 1e6 * torch.finfo(dtype).tiny
    assert float(torch.tensor(tiny(dtype), dtype=dtype)) > 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_exhausted_memory_is_recognised(error: BaseException, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_release_on_the_cpu_does_nothing() -> None:
    release(torch.device("cpu"))
