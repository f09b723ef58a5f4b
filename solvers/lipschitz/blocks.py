"""Elementary steps on increments: scaling, sums, and adding the columns of blocks, with every rounding charged."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.lipschitz.channels import Absolutes, Channels
from verinet.solvers.lipschitz.form import Ints
from verinet.solvers.lipschitz.increments import Increment, power_of_two, settle

from verinet.numerics.rounding import tiny

_UNIT = 2.0**-53


def coarse(value: Tensor) -> Tensor:
    """True for multiples of 2**-30 below 2**20: sums of a few such numbers round nothing."""
    return ((value * 2.0**30).frac() == 0) & (value.abs() < 2.0**20)


def scaled(x: Increment, factor: Tensor, factor_error: Tensor | None = None) -> Increment:
    """Every entry times a number; `factor` broadcasts to the node's shape, `factor_error` bounds its own rounding."""
    value = x.value * factor
    exact = power_of_two(factor) | power_of_two(x.value)
    fresh = torch.where(exact, torch.zeros_like(value), value.abs() * (2 * _UNIT) + tiny(value.dtype))
    if factor_error is not None and bool(factor_error.any()):
        fresh = fresh + (x.value.abs() + x.error) * factor_error * (1 + 4 * _UNIT)
    largest = float(factor.abs().max()) if factor.numel() else 0.0
    return settle(value, x.error * factor.abs(), fresh, x.norm * largest, x.depth)


def added(a: Increment, b: Increment, norm: Tensor | None = None) -> Increment:
    """The sum of two increments of one shape; `norm` replaces the sum of both norms where a better one is known."""
    columns = max(a.columns, b.columns)
    a, b = a.widened(columns), b.widened(columns)
    value = a.value + b.value
    fresh = torch.where(coarse(a.value) & coarse(b.value), torch.zeros_like(value), value.abs() * _UNIT)
    handed = a.norm + b.norm if norm is None else norm
    return settle(value, a.error + b.error, fresh, handed, max(a.depth, b.depth))


def negated(x: Increment) -> Increment:
    return Increment(-x.value, x.error, x.norm, x.depth)


def picked(x: Increment, index: Tensor) -> Increment:
    """Entries of a flat increment; `index` (entries,) may repeat, and then the norm grows by the repetitions."""
    count = int(torch.bincount(index).max()) if index.numel() else 0
    norm = x.norm if count <= 1 else x.norm * float(np.sqrt(count)) * (1 + 1e-15)
    return Increment(x.value[:, index], x.error[:, index], norm, x.depth)


def with_columns(x: Increment, place: tuple[Ints, Ints], size: Tensor, error: Tensor, columns: int) -> Increment:
    """x (flat) plus `size` in the cells `place` = (columns, entries); `error` bounds the rounding of `size`."""
    x = x.widened(columns)
    column, entry = (torch.from_numpy(p) for p in place)
    before = x.value[column, entry]
    value, fresh = x.value.clone(), torch.zeros_like(x.value)
    value[column, entry] = before + size
    exact = (before == 0) | (coarse(before) & coarse(size))
    fresh[column, entry] = error + torch.where(exact, 0.0, (before.abs() + size.abs()) * _UNIT)
    return settle(value, x.error, fresh, x.norm, x.depth)


def with_absolutes(
    x: Increment, found: Absolutes, coefficient: Tensor, error: Tensor, channels: Channels, entries: Ints | None = None
) -> Increment:
    """x (flat) plus coefficient * |t|, one number t for every one of `entries` (default: all in order)."""
    place = np.arange(len(found.column), dtype=np.int64) if entries is None else entries
    size = coefficient * torch.from_numpy(found.factor)
    used = np.flatnonzero((found.factor != 0) & ((size != 0) | (error != 0)).numpy())
    keep = torch.from_numpy(used)
    slack = (error * torch.from_numpy(found.factor))[keep]
    result = with_columns(x, (found.column[used], place[used]), size[keep], slack, channels.columns)
    kept = Absolutes(found.column[used], found.factor[used])
    return Increment(result.value, result.error, result.norm, max(x.depth, channels.depth_of(kept)))
