"""Planes carried forward enclose the network on boxes with any number of free axes, none included."""

from __future__ import annotations

import pytest
import torch

from tests.soundness.networks import STRUCTURES, random_boxes, random_graph, samples
from verinet.propagation.forward import ForwardPass


@pytest.mark.parametrize("axes", ([], [1], [0, 2], [0, 1, 2]), ids=lambda a: f"{len(a)} axes")
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("activation", ("Relu", "LeakyRelu", "Sin", "Gelu"))
def test_planes_enclose_samples(activation: str, structure: str, axes: list[int]) -> None:
    for seed in range(3):
        graph = random_graph(seed, activation, structure, depth=2)
        lower, upper = random_boxes(seed, 2, (1e-3, 0.5, 2.0)[seed])
        fixed = [i for i in range(3) if i not in axes]
        upper[:, fixed] = lower[:, fixed]
        forward = ForwardPass(graph, torch.tensor(axes, dtype=torch.int64), (lower, upper))
        values = graph.forward_all(samples(lower, upper, seed, 100).reshape(-1, 3))
        for position, (low, high) in enumerate(forward.values):
            value = values[position].reshape(100, 2, *graph.nodes[position].shape)
            slack = 1e-11 * (1 + value.abs())
            assert bool((low <= value + slack).all()) and bool((value - slack <= high).all())
