"""Lipschitz bounds of random ReLU networks: value, time and memory over width and depth.

    python benchmarks/lipschitz_scaling.py                      # the four networks of the acceptance test
    python benchmarks/lipschitz_scaling.py curve --seconds 30   # a cost curve over width and depth
    python benchmarks/lipschitz_scaling.py clarabel             # against a general solver on 10-50-50-5 (minutes)
    python benchmarks/lipschitz_scaling.py 32-100x4-10          # any shape: inputs, width x depth, outputs
    python benchmarks/lipschitz_scaling.py certificate          # closed form and certificate at 10,000 neurons
    python benchmarks/lipschitz_scaling.py --quick              # all of it at sizes that take about a minute together

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
from verinet.solvers.lipschitz.certify_chain import certify_chain
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
QUICK_WIDTHS, QUICK_DEPTHS, QUICK_SECONDS = (16, 48), (2, 6), 3.0
RIVAL, QUICK_RIVAL = "10-50x2-5", "10-20x2-5"  # shapes of the comparison with a general solver
LARGE, QUICK_LARGE = "784-1000x10-10", "64-200x10-10"
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
    return Row(shape, method, result.bound, norm_product(net), taken, peak(), result.note)


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


def curve(seconds: float, widths: Sequence[int] = CURVE_WIDTHS, depths: Sequence[int] = CURVE_DEPTHS) -> bool:
    """Every method over width and depth, while it is affordable."""
    jobs = []
    for width in widths:
        for depth in depths:
            shape = f"32-{width}x{depth}-10"
            jobs += [(shape, "closed form", seconds), (shape, "first order", seconds)]
            if width * depth <= INTERIOR_LIMIT:
                jobs.append((shape, "interior", seconds))
    return all(math.isfinite(row.value) for row in rows(jobs))


def ours(shape: str) -> tuple[float, float, float, float]:
    """(bound, gap, seconds, peak MB) of the interior point, in this process."""
    by_interior_point(network("4-8x2-2"), 10)
    begin = time.perf_counter()
    found = interior_point(chain_cone(network(shape)), tolerance=1e-8)
    return found.bound, found.gap, time.perf_counter() - begin, peak()


def theirs(shape: str) -> tuple[float, float, float, float]:
    """The same of Clarabel's direct interface; its gap is its own tolerance."""
    clarabel_value(network("4-8x2-2"))
    begin = time.perf_counter()
    return clarabel_value(network(shape)), 1e-8, time.perf_counter() - begin, peak()


def peak() -> float:
    """Largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def against_clarabel(shape: str, least: float) -> bool:
    """Ours and Clarabel's on the same inequality, each in a process of its own: equal value, ratio of times, memory."""
    found = []
    for name, run in (("ours", ours), ("clarabel", theirs)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            value, gap, seconds, memory = pool.apply(run, (shape,))
        print(f"{name:9} {shape}  {value:.9f}  gap {gap:.1e}  {seconds:8.3f} s  peak {memory:6.0f} MB", flush=True)
        found.append((value, seconds))
    ratio, apart = found[1][1] / found[0][1], abs(found[0][0] / found[1][0] - 1)
    print(f"ratio     {ratio:.0f} (at least {least:g}), relative difference {apart:.1e} (at most 1e-6)")
    return ratio >= least and apart <= 1e-6


def certificate(shape: str) -> bool:
    """Closed-form multipliers of a large network, proved layer by layer."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(certified, (shape,)), flush=True)
    return True


def certified(shape: str) -> str:
    """One line on how long the proof takes, in this process."""
    net, sizes = network(shape), sizes_of(shape)
    begin = time.perf_counter()
    multipliers = closed_form(net, 0).point
    between = time.perf_counter()
    proof = certify_chain(net, multipliers)
    end = time.perf_counter()
    return (
        f"{shape}: {sum(sizes[1:-1])} neurons, certified {proof.upper:.6g} (product {norm_product(net):.6g}), "
        f"closed form {between - begin:.1f} s, certificate {end - between:.1f} s, peak {peak():.0f} MB"
    )


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


def one(what: str, given: argparse.Namespace) -> bool:
    """Run one thing that was asked for."""
    quick = given.quick
    if what == "targets":
        return acceptance(given.seconds, list(TARGETS)[:2] if quick else list(TARGETS))
    if what == "curve":
        return curve(QUICK_SECONDS, QUICK_WIDTHS, QUICK_DEPTHS) if quick else curve(given.seconds)
    if what == "clarabel":
        return against_clarabel(QUICK_RIVAL, 1.0) if quick else against_clarabel(RIVAL, 100.0)
    if what == "certificate":
        return certificate(QUICK_LARGE if quick else LARGE)
    if what in TARGETS and given.method is None:
        return acceptance(given.seconds, [what])
    rows([(what, method, given.seconds) for method in ([given.method] if given.method else list(METHODS))])
    return True


def main() -> int:
    """0 when every target was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="targets (default), curve, clarabel, certificate, or shapes")
    parser.add_argument("--seconds", type=float, default=180.0, help="limit of each run")
    parser.add_argument("--method", choices=sorted(METHODS), help="for shapes: one method instead of all")
    parser.add_argument("--quick", action="store_true", help="small sizes; without anything else, all parts")
    given = parser.parse_args()
    everything = ["targets", "curve", "clarabel", "certificate"] if given.quick else ["targets"]
    return 0 if all([one(what, given) for what in given.what or everything]) else 1


if __name__ == "__main__":
    sys.exit(main())
