"""Speed of reading large VNN-LIB files, made on the spot: `python benchmarks/bench_vnnlib.py [SCALE]`.

SCALE 1 gives the sizes of the largest public files: one image of 150,528 inputs, and 11,000 disjuncts of 308 inputs.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections.abc import Callable

from verinet.spec import parse_property

LIMITS = {"image": 2.0, "boxes": 30.0, "intervals": 5.0, "nested": 20.0}  # seconds at scale 1


def declarations(inputs: int, outputs: int) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{j}" for j in range(outputs)]
    return "\n".join(f"(declare-const {name} Real)" for name in names) + "\n"


def image(scale: float) -> str:
    """One box and a robustness disjunction."""
    draw, inputs = random.Random(0), int(150_528 * scale)
    lines = ["; image", declarations(inputs, 1000)]
    for i in range(inputs):
        middle = draw.uniform(-2, 2)
        lines.append(f"(assert (<= X_{i} {middle + 0.004:.17f}))\n(assert (>= X_{i} {middle - 0.004:.17f}))")
    lines.append("(assert (or\n" + "\n".join(f"(and (>= Y_{j} Y_7))" for j in range(1000) if j != 7) + "\n))")
    return "\n".join(lines)


def boxes(scale: float) -> str:
    """A disjunction of boxes, each with one output bound."""
    draw, parts = random.Random(1), []
    for _ in range(int(11_000 * scale)):
        values = [draw.choice(("0.0", "1.0", "0.3333333432674408", str(draw.random()))) for _ in range(308)]
        bounds = " ".join(f"(>= X_{i} {value}) (<= X_{i} {value})" for i, value in enumerate(values))
        parts.append(f"(and {bounds} (<= Y_0 -1e-5))")
    return declarations(308, 1) + "(assert (or\n" + "\n".join(parts) + "\n))\n"


def intervals(scale: float) -> str:
    """Many short disjuncts."""
    draw, parts = random.Random(2), []
    for _ in range(int(20_000 * scale)):
        low = draw.random()
        parts.append(f"(and (>= X_0 {low}) (<= X_0 {low + 1e-4}) (<= Y_0 {draw.random()}))")
    return declarations(1, 1) + "(assert (or\n" + "\n".join(parts) + "\n))\n"


def nested(scale: float) -> str:
    """Arithmetic in every constraint, which only the general parser reads."""
    lines = [declarations(1000, 1000)]
    for i in range(int(100_000 * scale)):
        lines.append(f"(assert (<= (+ (* 2.0 X_{i % 1000}) -0.5) {i % 7 + 1}.25))")
        lines.append(f"(assert (>= X_{i % 1000} (- 1.5)))")
    return "\n".join(lines)


def measure(make: Callable[[float], str], scale: float) -> bool:
    """Print size, seconds and peak memory; True when within the limit."""
    text = make(scale)
    begin = time.perf_counter()
    prop = parse_property(text, make.__name__)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    limit = LIMITS[make.__name__] * max(scale, 0.1)
    print(
        f"{make.__name__:10} {len(text) / 1e6:7.1f} MB  {seconds:6.2f} s (limit {limit:.1f})  peak {peak:6.0f} MiB  "
        f"{len(prop.boxes)} boxes, {len(prop.clauses)} clauses"
    )
    return seconds <= limit


def main() -> int:
    """0 when every kind of file is read within its limit."""
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    results = [measure(make, scale) for make in (image, intervals, nested, boxes)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
