"""Lipschitz bounds of random ReLU networks: value, time and memory over width and depth.

    python benchmarks/lipschitz_scaling.py                      # the four networks of the acceptance test
    python benchmarks/lipschitz_scaling.py curve --seconds 30   # a cost curve over width and depth
    python benchmarks/lipschitz_scaling.py clarabel             # against a general solver on 10-50-50-5 (minutes)
    python benchmarks/lipschitz_scaling.py 32-100x4-10          # any shape: inputs, width x depth, outputs

Weights are `torch.randn(n_out, n_in, generator=g, dtype=float64) / sqrt(n_in)`, layer by layer from one
`g = torch.Generator().manual_seed(0)`. Each row runs in a process of its own, so that the peak memory is its own.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from verinet.solvers.lipschitz.cone import chain_cone, layered_problem
from verinet.solvers.lipschitz.form import Activation, Chain, Matrix
from verinet.solvers.sdp.cone import SdpResult
from verinet.solvers.sdp.first_order import first_order
from verinet.solvers.sdp.interior import interior_point
from verinet.solvers.sdp.recursion import layerwise

TARGETS = {  # shape: (method, at or below, seconds)
    "10-50x2-5": ("interior", math.inf, 1.0),
    "10-100x3-5": ("interior", math.inf, 5.0),
    "64-64x8-10": ("interior", math.inf, 20.0),
    "64-256x8-10": ("first order", 17.09, 180.0),
    "784-1024x3-10": ("first order", 2.634, 180.0),
}
CURVE_WIDTHS, CURVE_DEPTHS = (16, 32, 64, 128, 256), (2, 4, 8, 16)
INTERIOR_LIMIT = 700  # neurons up to which the curve runs the interior point as well


@dataclass(frozen=True)
class Row:
    """One line of the table; `seconds` without building the network."""

    shape: str
    method: str
    value: float
    product: float
    seconds: float
    megabytes: float
    note: str

    def __str__(self) -> str:
        ratio = self.value / self.product
        sizes = self.shape.split("-")
        width, depth = sizes[1].split("x")
        return (
            f"{self.shape:15} {width:>5} {depth:>5}  {self.method:12} {self.value:12.6g} {self.product:12.6g} "
            f"{self.seconds:8.2f} {ratio:10.3g} {self.megabytes:8.0f}  {self.note}"
        )


HEADER = "shape           width depth  method              value      product  seconds      ratio  peak MB  note"


def sizes_of(shape: str) -> tuple[int, ...]:
    """`64-256x8-10` -> (64, 256, ..., 256, 10)."""
    inputs, middle, outputs = shape.split("-")
    width, depth = middle.split("x")
    return (int(inputs), *[int(width)] * int(depth), int(outputs))


def network(shape: str) -> Chain:
    sizes, generator = sizes_of(shape), torch.Generator().manual_seed(0)
    weights = [
        torch.randn(rows, columns, generator=generator, dtype=torch.float64).numpy() / math.sqrt(columns)
        for columns, rows in zip(sizes, sizes[1:], strict=False)
    ]
    return Chain(tuple(Matrix(weight) for weight in weights), tuple(relu(size) for size in sizes[1:-1]))


def relu(size: int) -> Activation:
    from scipy import sparse

    half, one, numbers = sparse.identity(size) * 0.5, sparse.identity(size), np.arange(size)
    return Activation(half.tocsr(), half.tocsr(), one.tocsr(), numbers, numbers)


def norm_product(net: Chain) -> float:
    return math.prod(float(np.linalg.norm(weight.value, 2)) for weight in net.weights)


def closed_form(net: Chain, seconds: float) -> SdpResult:
    return layerwise(layered_problem(net))


def by_first_order(net: Chain, seconds: float) -> SdpResult:
    return first_order(layered_problem(net), deadline=time.perf_counter() + seconds)


def by_interior_point(net: Chain, seconds: float) -> SdpResult:
    return interior_point(chain_cone(net), deadline=time.perf_counter() + seconds)


METHODS: dict[str, Callable[[Chain, float], SdpResult]] = {
    "closed form": closed_form,
    "first order": by_first_order,
    "interior": by_interior_point,
}


def measure(job: tuple[str, str, float]) -> Row:
    """Run one method on one shape, in this process."""
    shape, method, seconds = job
    net = network(shape)
    METHODS[method](network("4-8x2-2"), 60)  # loads the libraries before the clock starts
    begin = time.perf_counter()
    result = METHODS[method](net, seconds)
    taken = time.perf_counter() - begin
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Row(shape, method, result.bound, norm_product(net), taken, megabytes, result.note)


def rows(jobs: Sequence[tuple[str, str, float]]) -> list[Row]:
    """Measure and print each job in a fresh process."""
    print(HEADER)
    found = []
    for job in jobs:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(measure, (job,)))
        print(found[-1], flush=True)
    return found


def acceptance(seconds: float, shapes: Sequence[str]) -> bool:
    """The targets; `seconds` caps each run, and the value reached by then is what counts."""
    jobs = [(shape, TARGETS[shape][0], seconds) for shape in shapes]
    passed = True
    for row in rows(jobs):
        _, value, limit = TARGETS[row.shape]
        if row.value > value or row.seconds > 1.1 * limit or (math.isinf(value) and row.note != "optimal"):
            print(f"missed: {row.shape} {row.value:.6g} (target {value:g}) in {row.seconds:.1f} s (limit {limit:g})")
            passed = False
    return passed


def curve(seconds: float) -> bool:
    """Every method over width and depth, while it is affordable."""
    jobs = []
    for width in CURVE_WIDTHS:
        for depth in CURVE_DEPTHS:
            shape = f"32-{width}x{depth}-10"
            jobs += [(shape, "closed form", seconds), (shape, "first order", seconds)]
            if width * depth <= INTERIOR_LIMIT:
                jobs.append((shape, "interior", seconds))
    return all(math.isfinite(row.value) for row in rows(jobs))


def against_clarabel() -> bool:
    """Ours and Clarabel's direct interface on 10-50-50-5, one process, the same inequality."""
    net = network("10-50x2-5")
    by_interior_point(network("4-8x2-2"), 10)
    begin = time.perf_counter()
    ours = interior_point(chain_cone(net), tolerance=1e-8)
    between = time.perf_counter()
    theirs = clarabel_value(net)
    end = time.perf_counter()
    ratio = (end - between) / (between - begin)
    print(f"ours     {ours.bound:.9f} in {between - begin:8.3f} s, gap {ours.gap:.1e}")
    print(f"clarabel {theirs:.9f} in {end - between:8.3f} s")
    print(f"ratio    {ratio:.0f}, relative difference {abs(ours.bound / theirs - 1):.1e}")
    return ratio >= 100 and abs(ours.bound / theirs - 1) <= 1e-6


def clarabel_value(net: Chain) -> float:
    """minimise rho subject to S(lambda, rho) >= 0, as Clarabel's upper-triangle cone with sqrt(2) off the diagonal."""
    import clarabel
    from scipy import sparse

    problem = chain_cone(net)
    size, count = problem.m.shape[1], problem.blocks + 1
    rows_, columns = np.triu_indices(size)
    order = np.lexsort((rows_, columns))
    rows_, columns = rows_[order], columns[order]
    weight = np.where(rows_ == columns, 1.0, math.sqrt(2))
    parts = np.zeros((len(rows_), count))
    for k in range(problem.blocks):
        row = problem.m[k]
        parts[:, k] = -row[rows_] * row[columns]
        parts[(rows_ == columns) & (rows_ == k), k] += 1
    parts[(rows_ == columns) & (rows_ >= problem.channels), -1] = 1
    base = -(problem.my.T @ problem.my)[rows_, columns]
    signs = sparse.csc_matrix(-np.eye(problem.blocks, count))
    matrix = sparse.vstack([signs, sparse.csc_matrix(-parts * weight[:, None])], format="csc")
    right = np.concatenate([np.zeros(problem.blocks), base * weight])
    cost = np.zeros(count)
    cost[-1] = 1
    cones = [clarabel.NonnegativeConeT(problem.blocks), clarabel.PSDTriangleConeT(size)]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    solver = clarabel.DefaultSolver(sparse.csc_matrix((count, count)), cost, matrix, right, cones, settings)
    return math.sqrt(solver.solve().obj_val)


def main() -> int:
    """0 when every target was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["targets"], help="targets, curve, clarabel, or shapes")
    parser.add_argument("--seconds", type=float, default=180.0, help="limit of each run")
    parser.add_argument("--method", choices=sorted(METHODS), help="for shapes: one method instead of all")
    given = parser.parse_args()
    passed = True
    for what in given.what:
        if what == "targets":
            passed &= acceptance(given.seconds, list(TARGETS))
        elif what == "curve":
            passed &= curve(given.seconds)
        elif what == "clarabel":
            passed &= against_clarabel()
        elif what in TARGETS and given.method is None:
            passed &= acceptance(given.seconds, [what])
        else:
            methods = [given.method] if given.method else list(METHODS)
            rows([(what, method, given.seconds) for method in methods])
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
