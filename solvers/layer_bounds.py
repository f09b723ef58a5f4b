"""Certified bounds of one layer over a box: what `verinet.bounds` returns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from verinet.errors import UsageError
from verinet.ir.graph import Graph
from verinet.propagation.interval import interval_pass
from verinet.propagation.optimize import Step
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

Floats = npt.NDArray[np.float64]
METHODS = ("auto", "interval", "linear")


def layer_bounds(graph: Graph, lower: Floats, upper: Floats, layer: str | None, method: str) -> tuple[Floats, Floats]:
    """Flat lower and upper bounds of a node (by name) or of the outputs, in float64 with rounding charged."""
    if method not in METHODS:
        raise UsageError(f"unknown method '{method}'", hint=f"use one of {', '.join(METHODS)}")
    target = graph.output if layer is None else _find(graph, layer)
    device = next((t.device for t in _tensors(graph)), torch.device("cpu"))
    low = torch.from_numpy(np.ascontiguousarray(lower)).to(device).unsqueeze(0)
    high = torch.from_numpy(np.ascontiguousarray(upper)).to(device).unsqueeze(0)
    if method == "interval":
        found = interval_pass(graph, low, high)[target]
        return _flat(found[0]), _flat(found[1])
    sweeper = Sweeper(build_backward(graph, low[0], high[0]), targets=(target,))
    layers = sweeper.sweep(low, high, SweepOptions())
    if method == "linear":  # inner layers have the default lines only; the layer asked for, the better of both starts
        found = sweeper.refined(target, layers, SweepOptions(step=Step(iterations=0)))
    else:
        found = sweeper.sweep(low, high, SweepOptions(step=Step(iterations=20)), layers.known).known[target]
    return _flat(found[0]), _flat(found[1])


def _find(graph: Graph, layer: str) -> int:
    for position, node in enumerate(graph.nodes):
        if node.name == layer:
            return position
    names = ", ".join(n.name for n in graph.nodes[1:13])
    raise UsageError(f"the network has no layer '{layer}'", hint=f"layers are named after ONNX tensors: {names} ...")


def _tensors(graph: Graph) -> list[torch.Tensor]:
    return [t for n in graph.nodes for t in vars(n.op).values() if isinstance(t, torch.Tensor)]


def _flat(values: torch.Tensor) -> Floats:
    return values.reshape(-1).cpu().numpy().astype(np.float64)
