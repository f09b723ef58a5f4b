"""Train a quantised and a binarised classifier of 8x8 handwritten digits and write them with robustness properties.

    python models/train_quantised.py

`digits_int8`: an ordinary network of 64 - 24 - 10, quantised after training as exporters do it: weights are int8
tensors behind DequantizeLinear, and pixels and activations pass QuantizeLinear and DequantizeLinear. Pixels become one
of 32 steps. `digits_sign`: two hidden layers of signs with weights -1 and 1, trained with straight-through gradients;
the last layer is real. Seeds are fixed.
"""

from __future__ import annotations

import numpy as np
import torch
from common import MODELS, SPECS, Array, Writer, replace_rows, robust_spec, run
from torch import Tensor, nn
from train_digits import CLASSES, PIXELS, TRAIN, Recipe, load_digits, parameters, train

STEPS = 32  # of a pixel
RADII = {"digits_int8": (0.01, 0.02, 0.05, 0.2), "digits_sign": (0.01, 0.02, 0.2)}


class Binary(nn.Module):
    """sign(W x + b) twice, then a real layer. Gradients pass a sign where |.| <= 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(PIXELS, 32), nn.Linear(32, 24), nn.Linear(24, CLASSES)))

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * x - 1
        for layer in list(self.layers)[:2]:
            weight = passed(layer.weight * 8)
            x = passed(nn.functional.linear(x, weight, layer.bias) / weight.shape[1] ** 0.5)
        out: Tensor = self.layers[2](x)
        return out


def passed(x: Tensor) -> Tensor:
    """-1 or 1, with the gradient of a clip."""
    soft = x.clamp(-1, 1)
    return soft + (torch.where(x >= 0, 1.0, -1.0) - soft).detach()


class QuantisedWriter(Writer):
    """Adds the nodes of the QDQ format."""

    def quantised(self, x: str, scale: float, zero: int, name: str) -> str:
        """x as an unsigned byte and back."""
        step = self.constant(np.float32(scale), f"{name}_scale"), self.constant(np.uint8(zero), f"{name}_zero")
        whole = self.node("QuantizeLinear", [x, *step], f"{name}_quantised")
        return self.node("DequantizeLinear", [whole, *step], f"{name}_back")

    def byte_gemm(self, x: str, weight: Array, bias: Array, name: str) -> str:
        """A dense layer with int8 weights, one scale an output."""
        scale = (np.abs(weight).max(1) / 127).astype(np.float32)
        whole = np.round(weight / scale[:, None]).clip(-127, 127).astype(np.int8)
        given = self.constant(whole, f"{name}_bytes"), self.constant(scale, f"{name}_scale")
        zero = self.constant(np.zeros(len(scale), np.int8), f"{name}_zero")
        w = self.node("DequantizeLinear", [*given, zero], f"{name}_weight", axis=0)
        b = self.constant(bias.astype(np.float32), f"{name}_bias")
        return self.node("Gemm", [x, w, b], name, transB=1)


def write_bytes(net: nn.Module, images: Array) -> None:
    """Activations get the range that they have on the training images."""
    first, last = (layer for layer in net.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        top = float(torch.relu(first(torch.from_numpy(images[:TRAIN]))).max())
    writer = QuantisedWriter()
    x = writer.quantised("input", 1 / STEPS, 0, "pixel")
    x = writer.node("Relu", [writer.byte_gemm(x, *parameters(first), "dense_0")], "relu_0")
    x = writer.quantised(x, top / 255, 0, "hidden")
    writer.save(MODELS / "digits_int8.onnx", (1, PIXELS), writer.byte_gemm(x, *parameters(last), "dense_1"), CLASSES)


def write_signs(net: nn.Module) -> None:
    """Sign(0) is 0 in ONNX and 1 in training; no training image meets a 0."""
    if not isinstance(net, Binary):
        raise TypeError("digits_sign")
    writer, x = Writer(), "input"
    for k, layer in enumerate(net.layers):
        weight, bias = parameters(layer)
        if k < 2:
            weight = np.where(weight >= 0, 1.0, -1.0)
        if k == 0:  # the pixels are moved from [0, 1] to [-1, 1]
            weight, bias = 2 * weight, bias - weight.sum(1)
        x = writer.gemm(x, weight, bias, f"dense_{k}")
        if k < 2:
            x = writer.node("Sign", [x], f"sign_{k}")
    writer.save(MODELS / "digits_sign.onnx", (1, PIXELS), x, CLASSES)


def write_specs(name: str, images: Array, labels: Array) -> list[tuple[str, str]]:
    """Robustness of the first test images that the network gets right, at growing radii."""
    hits = run(MODELS / f"{name}.onnx", images[TRAIN:]).argmax(1) == labels[TRAIN:]
    print(f"{name}: {100 * hits.mean():.1f} % of the test images")
    rows = []
    for radius, picture in zip(RADII[name], TRAIN + np.flatnonzero(hits), strict=False):
        image, label = images[picture].astype(np.float64), int(labels[picture])
        ball = np.clip(image - radius, 0, 1).round(6), np.clip(image + radius, 0, 1).round(6)
        spec = f"{name}_radius_{radius:g}.vnnlib"
        title = f"{name}.onnx, test image {picture} (a {label}), within {radius:g} of every pixel"
        (SPECS / spec).write_text(robust_spec(title, ball, label, CLASSES))
        rows.append((f"{name}.onnx", spec))
    return rows


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(PIXELS, 24), nn.ReLU(), nn.Linear(24, CLASSES))


def main() -> None:
    torch.set_num_threads(1)
    images, labels = load_digits()
    write_bytes(train(Recipe("digits_int8", small, lambda net, name: None), images, labels), images)
    write_signs(train(Recipe("digits_sign", Binary, lambda net, name: None), images, labels))
    for name in ("digits_int8", "digits_sign"):
        replace_rows([f"{name}."], write_specs(name, images, labels))


if __name__ == "__main__":
    main()
