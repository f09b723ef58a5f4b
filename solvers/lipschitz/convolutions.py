"""Upper bounds of the 2-norm of convolutions by their symbol, for any image size.

A zero-padded convolution is a compression of the one on an infinite grid, whose norm is the supremum over frequencies
of the norm of the symbol K(t) = sum_q K_q exp(-i q t). For a fixed u, |K(t) u|^2 is a trigonometric polynomial of
degree n = kernel - 1 in every direction, and such a T satisfies T(t) >= max T * cos(n (t - t*)) around its maximum t*
(M. Riesz), so that N > 2n equidistant samples per direction miss it by at most the factor cos(pi n / N).
Strides: output o reads position s o + q, so the s phases of the input are channels of a convolution of stride 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.numerics.rounding import gamma
from verinet.ops.linear.conv import Convolution, TransposedConvolution

_UP = 1 + 1e-12
_SAMPLES = (192, 96, 48, 24)
_WORK = 2e10
_SQUARINGS = 9


def symbol_bound(op: Convolution | TransposedConvolution) -> float:
    """At least the 2-norm of a convolution (a transposed one has that of its adjoint); infinite where it has no rule.

    Within about one percent of the supremum of the symbol for usual kernels.
    """
    weight = op.weight.to(torch.float64)
    axes = weight.dim() - 2
    strides, dilations = op.windows.strides, op.windows.dilations
    if axes > 2 or (any(s > 1 for s in strides) and any(d > 1 for d in dilations)):
        return math.inf
    # Dilation repeats the symbol more often; its supremum stays.
    groups = weight.reshape(op.groups, weight.shape[0] // op.groups, *weight.shape[1:])
    return max(_group_bound(_phases(kernel, strides)) for kernel in groups) * _UP


def _phases(kernel: Tensor, strides: tuple[int, ...]) -> Tensor:
    """(O, C, *kernel) to (O, C * phases, *shorter kernel): a convolution of stride 1 over the phases of the input."""
    for axis, stride in enumerate(strides):
        place = 2 + axis
        extent = kernel.shape[place]
        missing = -extent % stride
        padding = [0, 0] * (kernel.dim() - place - 1) + [0, missing]
        kernel = torch.nn.functional.pad(kernel, padding)
        shape = list(kernel.shape)
        shape[place : place + 1] = [shape[place] // stride, stride]
        kernel = kernel.reshape(shape).movedim(place + 1, 1).flatten(1, 2)
    return kernel


def _group_bound(kernel: Tensor) -> float:
    outs, ins = kernel.shape[:2]
    flat = kernel.reshape(outs, ins, -1)
    if outs > ins:
        flat = flat.transpose(0, 1)
    extents = tuple(kernel.shape[2:])
    size = min(outs, ins)
    count = next((n for n in _SAMPLES if n ** len(extents) * size**3 * 8 * _SQUARINGS <= _WORK), _SAMPLES[-1])
    count = max(count, 2 * max(extents) + 2)
    loss = math.prod(math.cos(math.pi * (extent - 1) / count) for extent in extents)
    worst = 0.0
    for turns in _frequencies(extents, count).split(max(1, (1 << 21) // max(outs * ins, 1))):
        worst = max(worst, _largest_square(flat, turns))
    return math.sqrt(worst / loss) * _UP


def _frequencies(extents: tuple[int, ...], count: int) -> Tensor:
    """Angles q . t for every sample t and tap q, (samples, taps); half of the samples by K(-t) = conj K(t)."""
    axes = []
    for place, _ in enumerate(extents):
        steps = count // 2 + 1 if place == 0 else count
        axes.append(torch.arange(steps, dtype=torch.float64))
    samples = torch.cartesian_prod(*axes).reshape(-1, len(extents))
    taps = torch.cartesian_prod(*(torch.arange(e, dtype=torch.float64) for e in extents)).reshape(-1, len(extents))
    # Whole turns are taken off in integers, so that the angle has a few roundings only.
    return (samples @ taps.T).remainder(count) * (2 * math.pi / count)


def _largest_square(flat: Tensor, turns: Tensor) -> float:
    """At least the largest squared singular value of the symbol over these samples."""
    phase = torch.polar(torch.ones_like(turns), -turns)
    symbol = torch.einsum("st,oct->soc", phase, flat.to(torch.complex128))
    # An angle below 2 pi with three roundings, its sine and cosine, and the sum over taps.
    error = gamma(4 * turns.shape[1] + 64, torch.float64) * float(torch.linalg.vector_norm(flat.abs().sum(2)))
    gram = symbol @ symbol.mH
    size = float(torch.linalg.matrix_norm(symbol).max())
    charge = gamma(4 * symbol.shape[2] + 32, torch.float64) * size**2
    root = math.sqrt(_batched_bound(gram) + charge * 2) + error
    return root**2 * _UP


def _batched_bound(gram: Tensor) -> float:
    """At least the largest 2-norm of a batch of Hermitian matrices, by repeated squaring (see `norms`)."""
    scales, charges = [], []
    for _ in range(_SQUARINGS):
        norm = torch.linalg.matrix_norm(gram).clamp(min=1e-250)
        factor = torch.exp2(torch.frexp(norm)[1].to(torch.float64))
        gram = gram / factor[:, None, None]
        gram = gram @ gram
        gram = 0.5 * (gram + gram.mH)
        scales.append(factor)
        charges.append(gamma(4 * gram.shape[1] + 32, torch.float64) * 2.0)
    bound = torch.linalg.matrix_norm(gram) * _UP + 1e-250
    for factor, charge in zip(reversed(scales), reversed(charges), strict=True):
        bound = factor * torch.sqrt(bound + charge) * _UP
    return float(bound.max())
