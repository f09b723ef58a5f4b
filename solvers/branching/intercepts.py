"""Scores that read only the lines: intercepts, and BaBSR's for ReLU. Baselines, and what BBPS builds on."""

from __future__ import annotations

import torch
from torch import Tensor
from verinet.solvers.branching.candidates import Place, View
from verinet.solvers.branching.gains import Reader, child_gain

from verinet.ops.base import LinearOp, Lines
from verinet.ops.scalar import Elementwise
from verinet.propagation.interval import Interval


def entry_by_entry(reader: Reader) -> bool:
    """Whether every output entry depends on at most one entry of each input."""
    return isinstance(reader.op, Elementwise) or reader.op.slopes(reader.lines) is not None


def selected(reader: Reader, lines: Lines) -> tuple[list[Tensor], Tensor]:
    """Slopes per input and offset (domains, *out) of the planes that the row's signs select."""
    zero = [torch.zeros_like(v) for v in reader.values]
    offset = reader.op.push(reader.rows, lines, *zero)
    slopes = []
    for slot, value in enumerate(zero):
        probe = list(zero)
        probe[slot] = torch.ones_like(value)
        slopes.append(reader.op.push(reader.rows, lines, *probe) - offset)
    return slopes, offset


def child_lines(reader: Reader, slot: int, ends: Interval) -> Lines:
    """Default lines where one input has other ends."""
    lowers, uppers, _ = reader.moved(slot, ends)
    return reader.op.lines(lowers, uppers)


def intercept_gain(view: View, place: Place, ends: Interval, upper: bool) -> Tensor:
    """By how much the operator's part of the constant term rises."""
    reader = place.reader
    if not entry_by_entry(reader):
        return child_gain(reader, place.slot, ends, upper)
    before, after = (selected(reader, lines)[1] for lines in (reader.lines, child_lines(reader, place.slot, ends)))
    change = reader.rows * (after - before)
    return reader.op.blame(change, reader.lowers, reader.uppers)[place.slot]


def babsr_gain(view: View, place: Place, ends: Interval, upper: bool) -> Tensor:
    """For ReLU |T + I| with I = min(a, 0) (-l s), s = u / (u - l), and T = max(b a (s - 1), b a s) (Bunel et al. 2020).

    b is the bias of the linear operator that makes the neuron. Other operators have their intercept's gain.
    """
    reader = place.reader
    hinge = reader.op.function.hinge if isinstance(reader.op, Elementwise) else None
    if hinge is None or tuple(hinge) != (0.0, 1.0):
        return intercept_gain(view, place, ends, upper)
    low, high = reader.lowers[0], reader.uppers[0]
    share = (high / (high - low).clamp(min=1e-12)).clamp(0, 1)
    maker = view.graph.nodes[view.graph.nodes[place.position].inputs[0]].op
    bias = maker.bias() if isinstance(maker, LinearOp) else None
    product = reader.rows * (torch.zeros_like(low) if bias is None else bias.to(low))
    straight = torch.maximum(product * (share - 1), product * share)
    return (straight - reader.rows.clamp(max=0) * low * share).abs()
