"""Recurrent, normalising and attending modules as both of torch's exporters write them: values and bounds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from verinet.frontends.crosscheck import compare_with_onnxruntime
from verinet.frontends.model import Model
from verinet.frontends.onnx import load_onnx
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

TOKENS, WIDTH, HIDDEN = 3, 4, 5


class Sequence(nn.Module):
    """A recurrent core over the tokens; a dense layer reads the states behind the last one."""

    def __init__(self, core: nn.RNNBase) -> None:
        super().__init__()
        self.core = core
        self.out = nn.Linear(HIDDEN * (2 if core.bidirectional else 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.core(x)[0][:, -1])
        return result


class Cells(nn.Module):
    """The same by cells, step by step: an unrolled graph of gates."""

    def __init__(self, cell: nn.LSTMCell | nn.GRUCell) -> None:
        super().__init__()
        self.cell, self.out = cell, nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for step in range(TOKENS):
            state = self.cell(x[:, step], state)
        result: Tensor = self.out(state[0] if isinstance(state, tuple) else state)
        return result


class SpelledNorm(nn.Module):
    """LayerNorm from means, a square and a root."""

    def forward(self, x: Tensor) -> Tensor:
        away = x - x.mean(-1, keepdim=True)
        return away / torch.sqrt((away * away).mean(-1, keepdim=True) + 1e-2)


class Attention(nn.Module):
    """One head with softmax over the keys, a residual and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) / WIDTH**0.5
        mixed: Tensor = self.norm(x + torch.softmax(scores, -1) @ self.value(x))
        return mixed.mean(1)


class Spread(nn.Module):
    """Quotient, variance, variable exponents (of a constant, and spelled out) and log-softmax over another axis."""

    def forward(self, x: Tensor) -> Tensor:
        base, exponent = torch.exp(0.3 * x[..., :1]) + 0.5, torch.tanh(x[..., 1:2])
        power = torch.exp(exponent * torch.log(base)) + torch.pow(2.0, exponent)
        share = x[..., 2:] / (1 + x.var(-1, unbiased=False, keepdim=True))
        return torch.cat([power, torch.log_softmax(share, 1)], -1)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "LSTM, two layers, both directions": lambda: Sequence(
        nn.LSTM(WIDTH, HIDDEN, num_layers=2, batch_first=True, bidirectional=True)
    ),
    "GRU": lambda: Sequence(nn.GRU(WIDTH, HIDDEN, batch_first=True)),
    "LSTM cells": lambda: Cells(nn.LSTMCell(WIDTH, HIDDEN)),
    "GRU cells": lambda: Cells(nn.GRUCell(WIDTH, HIDDEN)),
    "norms": lambda: nn.Sequential(nn.Linear(WIDTH, 6), nn.LayerNorm(6), nn.Tanh(), SpelledNorm()),
    "attention": Attention,
    "spread": Spread,
}


def exported(name: str, dynamo: bool, folder: Path) -> Path:
    """The module with seeded weights in a file, by the tracing exporter or the one that captures graphs."""
    torch.manual_seed(5)
    module, sample = BUILDERS[name]().eval(), (torch.full((1, TOKENS, WIDTH), 0.1),)
    path = folder / "module.onnx"
    if dynamo:
        pytest.importorskip("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, sample, path, dynamo=dynamo, verbose=False)
    return path


def check_bounds(model: Model) -> None:
    """Rows over the outputs on a small box enclose samples, and are narrower than a unit."""
    graph = model.graph.to(torch.float64)
    draw = torch.Generator().manual_seed(2)
    centre = torch.randn(graph.input_size, generator=draw, dtype=torch.float64) * 0.5
    low, high = (centre - 0.02)[None], (centre + 0.02)[None]
    layers = Sweeper(build_backward(graph, low[0], high[0]), targets=[graph.output]).sweep(low, high, SweepOptions())
    least, most = layers.known[graph.output]
    values = graph.forward(low + (high - low) * torch.rand(300, graph.input_size, generator=draw, dtype=torch.float64))
    assert bool((least <= values).all()) and bool((values <= most).all())
    assert float((most - least).amax()) < 2.0


@pytest.mark.parametrize("dynamo", [False, True], ids=["traced", "captured"])
@pytest.mark.parametrize("name", BUILDERS)
def test_exports_are_read_run_and_bounded(name: str, dynamo: bool, tmp_path: Path) -> None:
    model = load_onnx(exported(name, dynamo, tmp_path))
    assert all(record.status != "unsupported" for record in model.records)
    samples = np.random.default_rng(1).normal(size=(4, model.graph.input_size))
    assert compare_with_onnxruntime(model, samples) < 1e-5
    torch.manual_seed(5)
    module = BUILDERS[name]().eval()
    given = torch.from_numpy(samples.reshape(-1, TOKENS, WIDTH)).float()
    wanted = torch.cat([module(x[None]).reshape(1, -1) for x in given]).double()
    assert torch.allclose(model.graph.to(torch.float64).forward(torch.from_numpy(samples)), wanted, atol=1e-5)
    check_bounds(model)
