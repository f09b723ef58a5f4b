"""Train small classifiers of 8x8 handwritten digits and write them with their robustness properties.

    python models/train_digits.py

The images come with scikit-learn (1797 of them, from the UCI repository); pixels are scaled to [0, 1]. Training takes
some seconds a network. Seeds are fixed; the weights still depend on the version of torch and on the processor, so the
files in the repository are the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import MODELS, SPECS, Array, Writer, output_spec, replace_rows, robust_spec, robust_spec_2, run
from torch import Tensor, nn

CLASSES, PIXELS, TRAIN = 10, 64, 1400
RADII = (0.02, 0.05, 0.1, 0.2)


class Residual(nn.Module):
    """Three blocks x + W relu(V x + v) + w of width 24."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(PIXELS, 24), nn.Linear(24, CLASSES)
        self.inner = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))
        self.outer = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(torch.relu(inner(x)))
        out: Tensor = self.leave(x)
        return out


class Convolutional(nn.Module):
    """Two convolutions of stride 2, then two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.dense, self.leave = nn.Linear(64, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x.view(-1, 1, 8, 8)))))
        out: Tensor = self.leave(torch.relu(self.dense(x.flatten(1))))
        return out


@dataclass(frozen=True)
class Recipe:
    """One network: how to make it, and how to write it."""

    name: str
    make: Callable[[], nn.Module]
    write: Callable[[nn.Module, str], None]


def dense(activation: Callable[[], nn.Module], width: int) -> Callable[[], nn.Module]:
    """A maker of networks 64 - width - width - 10."""

    def make() -> nn.Module:
        sizes = (nn.Linear(PIXELS, width), nn.Linear(width, width), nn.Linear(width, CLASSES))
        return nn.Sequential(sizes[0], activation(), sizes[1], activation(), sizes[2])

    return make


def write_dense(op: str, opset: int = 13) -> Callable[[nn.Module, str], None]:
    def write(net: nn.Module, name: str) -> None:
        writer, x = Writer(), "input"
        layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
        for i, layer in enumerate(layers):
            x = writer.gemm(x, *parameters(layer), f"dense_{i}")
            if i + 1 < len(layers):
                x = writer.node(op, [x], f"{op.lower()}_{i}")
        writer.save(MODELS / f"{name}.onnx", (1, PIXELS), x, CLASSES, opset)

    return write


def write_residual(net: nn.Module, name: str) -> None:
    if not isinstance(net, Residual):
        raise TypeError(name)
    writer = Writer()
    x = writer.gemm("input", *parameters(net.enter), "enter")
    for i, (inner, outer) in enumerate(zip(net.inner, net.outer, strict=True)):
        h = writer.node("Relu", [writer.gemm(x, *parameters(inner), f"inner_{i}")], f"relu_{i}")
        x = writer.node("Add", [x, writer.gemm(h, *parameters(outer), f"outer_{i}")], f"add_{i}")
    writer.save(MODELS / f"{name}.onnx", (1, PIXELS), writer.gemm(x, *parameters(net.leave), "leave"), CLASSES)


def write_convolutional(net: nn.Module, name: str) -> None:
    if not isinstance(net, Convolutional):
        raise TypeError(name)
    writer, x = Writer(), "input"
    shape: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    for i, layer in enumerate((net.first, net.second)):
        x = writer.node("Relu", [writer.conv(x, *parameters(layer), f"conv_{i}", **shape)], f"relu_{i}")
    x = writer.node("Flatten", [x], "flatten", axis=1)
    x = writer.node("Relu", [writer.gemm(x, *parameters(net.dense), "dense")], "relu_2")
    writer.save(MODELS / f"{name}.onnx", (1, 1, 8, 8), writer.gemm(x, *parameters(net.leave), "leave"), CLASSES)


def parameters(layer: nn.Module) -> tuple[Array, Array]:
    """Weight and bias as arrays."""
    weight, bias = (p.detach().numpy() for p in layer.parameters())
    return weight, bias


RECIPES = (
    Recipe("digits_relu", dense(nn.ReLU, 32), write_dense("Relu")),
    Recipe("digits_sigmoid", dense(nn.Sigmoid, 24), write_dense("Sigmoid")),
    Recipe("digits_tanh", dense(nn.Tanh, 24), write_dense("Tanh")),
    Recipe("digits_gelu", dense(nn.GELU, 24), write_dense("Gelu", opset=20)),
    Recipe("digits_cnn", Convolutional, write_convolutional),
    Recipe("digits_residual", Residual, write_residual),
)


def load_digits() -> tuple[Array, Array]:
    """(images in [0, 1] of shape (1797, 64), labels)."""
    from sklearn.datasets import load_digits as bundled

    digits = bundled()
    return (digits.data / 16.0).astype(np.float32), digits.target.astype(np.int64)


def train(recipe: Recipe, images: Array, labels: Array) -> nn.Module:
    """Plain training with a little uniform noise, which makes the networks robust enough to be interesting."""
    torch.manual_seed(7)
    net = recipe.make()
    x, y = torch.from_numpy(images[:TRAIN]), torch.from_numpy(labels[:TRAIN])
    optimiser = torch.optim.Adam(net.parameters(), lr=4e-3, weight_decay=1e-4)
    for _ in range(60):
        for batch in torch.randperm(TRAIN).split(100):
            noise = 0.2 * (2 * torch.rand(len(batch), PIXELS) - 1)
            loss = nn.functional.cross_entropy(net((x[batch] + noise).clamp(0, 1)), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net


def write_specs(recipe: Recipe, images: Array, labels: Array) -> list[tuple[str, str]]:
    """Robustness of the first test images that the network gets right, at growing radii, and a bound of the scores."""
    model = f"{recipe.name}.onnx"
    guesses = run(MODELS / model, images[TRAIN:]).argmax(1)
    right = [TRAIN + int(i) for i in np.flatnonzero(guesses == labels[TRAIN:])]
    rows: list[tuple[str, str]] = []
    for radius, picture in zip(RADII, right, strict=False):
        image = images[picture].astype(np.float64)
        ball = np.clip(image - radius, 0, 1).round(6), np.clip(image + radius, 0, 1).round(6)
        spec = f"{recipe.name}_radius_{radius:g}.vnnlib"
        title = f"{model}, test image {picture} (a {labels[picture]}), within {radius:g} of every pixel"
        (SPECS / spec).write_text(robust_spec(title, ball, int(labels[picture]), CLASSES))
        rows.append((model, spec))
        if recipe.name == "digits_relu":
            text = robust_spec_2(title, ball, (1, PIXELS), int(labels[picture]), CLASSES)
            (SPECS / "version_2" / spec).write_text(text)
    spec = f"{recipe.name}_score.vnnlib"
    dark = np.zeros(PIXELS), np.full(PIXELS, 0.05)
    title = f"{model}: on an almost black image, the score of class 0 never exceeds 1000"
    (SPECS / spec).write_text(output_spec(title, dark, CLASSES, ["(>= Y_0 1000.0)"]))
    return [*rows, (model, spec)]


def main() -> None:
    torch.set_num_threads(1)
    images, labels = load_digits()
    rows: list[tuple[str, str]] = []
    for recipe in RECIPES:
        net = train(recipe, images, labels)
        recipe.write(net, recipe.name)
        hits = run(MODELS / f"{recipe.name}.onnx", images[TRAIN:]).argmax(1) == labels[TRAIN:]
        print(f"{recipe.name}: {100 * hits.mean():.1f} % of the test images")
        rows += write_specs(recipe, images, labels)
    replace_rows([f"{recipe.name}." for recipe in RECIPES], rows)


if __name__ == "__main__":
    main()
