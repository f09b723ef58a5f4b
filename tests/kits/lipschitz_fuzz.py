"""Random networks against every Lipschitz bound: none may be below what two inputs attain."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from verinet.solvers.lipschitz.implicit import load_implicit

import verinet
from tests.kits.lipschitz_drawn import Floats, Random, Subject, subject
from tests.unit.lipschitz.api_kit import operator_norm
from verinet.errors import InternalError, VerinetError
from verinet.results import LipschitzBound

METHODS = ("auto", "product", "recursion", "layer", "first-order", "neuron", "exact")
NORMS: tuple[Any, ...] = (2, 2, 2, "inf", "inf", (1, 2), (1, math.inf), (2, math.inf), (math.inf, 1), (3.0, 1.5))
NOISE = 2e-13  # of one float64 run of these networks, relative to its values
POINTS, ROUNDS, KEPT = 160, 6, 6


@dataclass(frozen=True)
class Place:
    """Where inputs lie: everywhere (no centre), a ball in the 2-norm, or a box of the half widths `half`."""

    center: Floats | None = None
    half: Floats | None = None
    radius: float = 0.0

    @property
    def region(self) -> Any:
        if self.center is None:
            return None
        if self.half is None:
            return verinet.Ball(self.center, self.radius)
        return verinet.box(self.center - self.half, self.center + self.half)

    def project(self, points: Floats) -> Floats:
        """Into the region, a little inside of it."""
        if self.center is None:
            return points
        away = points - self.center
        if self.half is not None:
            return np.asarray(np.clip(points, self.center - self.half, self.center + self.half))
        length = np.linalg.norm(away, axis=1, keepdims=True)
        return np.asarray(self.center + away * np.minimum(1.0, self.radius * (1 - 1e-9) / np.maximum(length, 1e-300)))

    def sample(self, size: int, count: int, random: Random) -> Floats:
        noise = random.normal(size=(count, size))
        if self.center is None:
            return np.asarray(noise * 10 ** random.uniform(-2, 1.5, (count, 1)))
        reach = self.radius if self.half is None else self.half
        return self.project(self.center + noise * reach * random.choice([0.3, 1.0, 5.0], (count, 1)))

    def reach(self) -> float:
        if self.center is None:
            return 1.0
        return self.radius if self.half is None else float(self.half.max(initial=0.0))


def place(size: int, local: bool, random: Random) -> Place:
    """Everywhere, or a region of any size, far out, or flat along some axes."""
    if not local and random.random() < 0.45:
        return Place()
    center = random.normal(size=size) * random.choice([0.0, 1.0, 1.0, 30.0])
    radius = float(random.choice([1e-6, 0.01, 0.1, 0.5, 2.0]))
    if random.random() < 0.5:
        return Place(center, None, radius)
    half = radius * random.uniform(0.2, 1.0, size)
    half[random.random(size) < 0.15] = 0.0
    return Place(center, half)


def _jacobians(graph: Any, points: Floats) -> Floats:
    """(points, outputs, inputs)"""
    inputs = torch.from_numpy(points)
    found = torch.autograd.functional.jacobian(lambda x: graph.forward(x).flatten(1).sum(0), inputs)
    return np.nan_to_num(found.permute(1, 0, 2).numpy(), nan=0.0, posinf=0.0, neginf=0.0)


def attained(graph: Any, where: Place, norm: tuple[float, float], rows: Floats, random: Random) -> float:
    """The largest Jacobian norm or secant quotient that samples and a climb from the best ones find."""
    p, q = norm
    free = np.ones(graph.input_size) if where.half is None else (where.half > 0).astype(np.float64)
    points = where.sample(graph.input_size, POINTS, random)

    def heights(some: Floats) -> Floats:
        return np.array([operator_norm((rows @ j) * free, p, q) for j in _jacobians(graph, some)])

    best = heights(points)
    step = where.reach()
    for _ in range(ROUNDS):
        chosen = np.argsort(-best)[:KEPT]
        tried = np.repeat(points[chosen], 6, axis=0)
        tried = where.project(
            tried + random.normal(size=tried.shape) * free * step * random.choice([1.0, 0.1], (len(tried), 1))
        )
        points, best = np.concatenate([points[chosen], tried]), np.concatenate([best[chosen], heights(tried)])
        step *= 0.5
    pairs = [
        (points, where.sample(graph.input_size, len(points), random)),
        (points, where.project(points + 0.1 * step)),
    ]
    pairs.append((points, where.project(points + random.normal(size=points.shape) * free * where.reach() * 0.3)))
    return max(float(best.max(initial=0.0)), *(_secants(graph, a, b, norm, rows) for a, b in pairs))


def _secants(graph: Any, first: Floats, second: Floats, norm: tuple[float, float], rows: Floats) -> float:
    """The largest quotient, less what rounding of the two runs may have added."""
    p, q = norm
    one, two = (graph.forward(torch.from_numpy(x)).flatten(1).numpy() for x in (first, second))
    size = (np.abs(one) + np.abs(two)) @ np.abs(rows).T
    moved = np.maximum(np.abs((one - two) @ rows.T) - NOISE * (1 + size), 0.0)
    apart = np.linalg.norm(first - second, ord=p, axis=1)
    far = apart > 1e-7
    quotients = np.linalg.norm(moved[far], ord=q, axis=1) / apart[far]
    return float(np.nan_to_num(quotients).max(initial=0.0))


def _exponents(norm: Any) -> tuple[float, float]:
    return norm if isinstance(norm, tuple) else (float(norm), float(norm))


def _output(count: int, random: Random) -> tuple[Any, Floats]:
    """What is asked for, and the same as a matrix."""
    how = int(random.integers(6))
    if how == 0:
        number = int(random.integers(count))
        return number, np.eye(count)[[number]]
    if how == 1:
        numbers = sorted({int(n) for n in random.integers(count, size=2)})
        return numbers, np.eye(count)[numbers]
    if how == 2:
        rows = random.normal(size=(2, count))
        return rows, rows
    return None, np.eye(count)


def examine(seed: int, seconds: float, counts: Counter[str]) -> list[str]:
    """One network, one place, some methods: what is wrong, in words."""
    random = np.random.default_rng(seed)
    network = subject(random)
    where = place(network.model.graph.input_size, network.local, random)
    norm = NORMS[int(random.integers(len(NORMS)))]
    output, rows = _output(network.model.graph.output_size, random)
    height = attained(network.graph, where, _exponents(norm), rows, random)
    methods = METHODS if random.random() < 0.3 else ("auto", METHODS[int(random.integers(1, len(METHODS)))])
    bad: list[str] = []
    for method in methods:
        told = f"{method}, norm {norm}, {'everywhere' if where.center is None else where.region}, {network.words}"
        try:
            bound = verinet.lipschitz(
                network.model, norm=norm, region=where.region, output=output, method=method, timeout=seconds, seed=seed
            )
        except InternalError as error:
            bad.append(f"{told}: {error}")
            continue
        except VerinetError as error:
            counts[f"{method} refused: {str(error).splitlines()[0][:60]}"] += 1
            continue
        counts[f"{method}: bounds"] += 1
        bad += [f"{told}: {line}" for line in wrong(bound, height, network, (method, norm, output))]
    return bad


def wrong(bound: LipschitzBound, height: float, network: Subject, asked: tuple[str, Any, Any]) -> list[str]:
    """What is wrong with one bound."""
    method, norm, output = asked
    found: list[str] = []
    if not bound.upper >= height * (1 - 1e-9):
        found.append(f"upper {bound.upper!r} is below what is attained, {height!r}")
    if not 0 <= bound.lower <= bound.upper:
        found.append(f"lower {bound.lower!r} is above upper {bound.upper!r}")
    for name, upper, _ in bound.candidates:
        if not upper >= height * (1 - 1e-9):
            found.append(f"the candidate {name}, {upper!r}, is below what is attained, {height!r}")
    whole = (
        None if network.norms is None or isinstance(norm, tuple) or output is not None else network.norms[float(norm)]
    )
    if whole is not None and method in ("auto", "product") and bound.upper > whole * (1 + 1e-6) + 1e-12:
        found.append(f"upper {bound.upper!r} is above the product of norms, {whole!r}")
    return found


def examine_radius(seed: int, seconds: float, counts: Counter[str]) -> list[str]:
    """A certified radius of one network: no input within it may get another label, ties at its edge aside."""
    random = np.random.default_rng(seed)
    network = subject(random)
    graph = network.graph
    point = random.normal(size=graph.input_size)
    try:
        found = verinet.radius(network.model, point, timeout=seconds)
    except InternalError as error:
        return [f"radius, {network.words}: {error}"]
    except VerinetError as error:
        counts[f"radius refused: {str(error).splitlines()[0][:60]}"] += 1
        return []
    counts["radius: bounds"] += 1
    reach = min(found.radius, 1e3)
    points = point + Place(np.zeros(point.size), None, reach).sample(point.size, 400, random)
    labels = graph.forward(torch.from_numpy(points)).flatten(1).numpy()
    others = np.delete(labels, found.label, 1)
    margin = labels[:, found.label] - others.max(1)
    if found.radius > 0 and bool((margin < -NOISE * (1 + np.abs(labels).max(1))).any()):
        return [f"radius {found.radius!r}, {network.words}: another label within it, by {margin.min():.3g}"]
    return []


def examine_implicit(seed: int, seconds: float, counts: Counter[str]) -> list[str]:
    """An implicit model z = tanh(A z + B x + b), y = C z: quotients of the values that its equation settles on."""
    random = np.random.default_rng(seed)
    size, inputs = int(random.integers(2, 8)), int(random.integers(1, 4))
    a = random.normal(size=(size, size))
    a *= float(random.choice([0.2, 0.5, 0.9])) / np.linalg.norm(a, 2)
    arrays = {"A": a, "B": random.normal(size=(size, inputs)), "C": random.normal(size=(2, size))}
    offset, activation = random.normal(size=size), str(random.choice(["relu", "tanh", "sigmoid"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.npz"
        np.savez(path, **arrays, b=offset, activation=np.array(activation))
        model = load_implicit(path)
    method = str(random.choice(["auto", "first-order", "neuron", "exact"]))
    points = random.normal(size=(60, inputs)) * 10 ** random.uniform(-1.5, 1, (60, 1))
    beside = points + random.normal(size=points.shape) * float(random.choice([1e-2, 1.0]))
    one, two = (model.evaluate(torch.from_numpy(x)).numpy() for x in (points, beside))
    bad: list[str] = []
    for norm in (2, "inf"):
        p, _ = _exponents(norm)
        moved = np.linalg.norm(one - two, ord=p, axis=1) - 1e-9
        height = float((moved / np.linalg.norm(points - beside, ord=p, axis=1)).max(initial=0.0))
        try:
            bound = verinet.lipschitz(model, norm=norm, method=method, timeout=seconds)
        except VerinetError as error:
            counts[f"implicit refused: {str(error).splitlines()[0][:60]}"] += 1
            continue
        counts["implicit: bounds"] += 1
        if not bound.upper >= height or bound.lower > bound.upper:
            bad.append(f"implicit, {method}, {norm}: {bound.lower!r} to {bound.upper!r}, attained {height!r}")
    return bad
