"""The ablation of branching: instances are what they claim to be, runs resume, and tables count as they say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def scripts(root: Path) -> tuple[ModuleType, ModuleType]:
    """The benchmark and its networks, which are in no package."""
    sys.path.insert(0, str(root / "benchmarks"))
    try:
        import bench_branching
        import branching_networks
    finally:
        sys.path.remove(str(root / "benchmarks"))
    return bench_branching, branching_networks


def test_every_kind_is_there_and_repeatable(scripts: tuple[ModuleType, ModuleType]) -> None:
    networks = scripts[1]
    chosen, again = list(networks.problems(True)), list(networks.problems(True))
    assert len(chosen) == len(networks.KINDS) + len(networks.DIGITS) + len(networks.SHIPPED)
    assert len({p.name for p in chosen}) == len(chosen)
    for problem, twin in zip(chosen, again, strict=True):
        inside = problem.lower + (problem.upper - problem.lower) * 0.25
        value, same = (float(p.graph.forward(inside[None])[0] @ p.weights) for p in (problem, twin))
        assert value == same
        assert 0.0 < problem.share < 1.0
        assert bool((problem.lower < problem.upper).any())


def test_the_threshold_lies_below_all_samples(scripts: tuple[ModuleType, ModuleType]) -> None:
    bench, networks = scripts
    problem = next(p for p in networks.problems(True) if p.name.startswith("pairs"))
    prepared = bench.Prepared(problem)
    draw = torch.Generator().manual_seed(0)
    shares = torch.rand(2000, problem.graph.input_size, generator=draw, dtype=torch.float64)
    values = problem.graph.forward(problem.lower + (problem.upper - problem.lower) * shares) @ problem.weights
    threshold = float(prepared.query.table.bounds[0])
    assert not prepared.trivial and prepared.gap > 0
    assert threshold < networks.least_sampled(problem) <= float(values.min()) + 1e-9


def test_a_run_resumes_where_it_stopped(scripts: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    bench, networks = scripts
    chosen = [p for p in networks.problems(True) if p.name.startswith("pairs")]
    path, ways = tmp_path / "results.csv", ["default", "values inside", "relu only"]
    assert not bench.extend(path, chosen, ways, 60, 0.0)
    assert bench.extend(path, chosen, ways[:2], 60, 60.0)
    first = path.read_text()
    assert bench.extend(path, chosen, ways, 60, 60.0)
    assert path.read_text().startswith(first) and path.read_text().count("\n") == 4
    results = {r.way: r for r in bench.read(path, 60)}
    assert set(results) == set(ways) and bench.read(path, 61) == []
    assert results["default"].solved and 1 < results["default"].domains <= 60
    assert bench.extend(path, chosen, ways, 60, 0.0)  # nothing is missing, so no time is needed


def test_values_inside_ends(scripts: tuple[ModuleType, ModuleType]) -> None:
    from verinet.solvers.branching.candidates import View

    usual = View.reader
    with scripts[0].values_inside():
        assert View.reader is not usual
    assert View.reader is usual


def test_the_pre_optimised_point_leaves_less_area(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import branching_points

    words = branching_points.line("Tanh", (2.0, 4.0)).replace(",", "").split()
    off, best, middle = float(words[7]), float(words[10]), float(words[12])
    assert 0.0 < off < 0.5
    assert 0.0 < best < middle < 1.0


def test_the_table(scripts: tuple[ModuleType, ModuleType]) -> None:
    bench = scripts[0]

    def result(name: str, way: str, solved: bool, domains: int) -> object:
        return bench.Result("group", name, way, 100, solved, domains, 1.0, 0.0)

    results = [
        result("a", "default", True, 11),
        result("a", "bbps", True, 21),
        result("a", "relu only", False, 1),
        result("b", "default", True, 31),
        result("b", "bbps", False, 107),
        result("b", "relu only", True, 41),
        result("c", "default", True, 5),
    ]
    lines = bench.summary(results, 100)
    assert lines[0] == "2 instances, at most 100 domains each; 1 solved by all general ways"
    cells = {line[:26].strip(): line[26:].split() for line in lines[2:]}
    assert cells == {
        "default": ["2", "42", "11", "42", ":", "42", "of", "2"],
        "bbps": ["1", "121", "21", "21", ":", "11", "of", "1"],
        "relu only": ["1", "141", "-", "41", ":", "31", "of", "1"],
    }
    assert "107+" in "\n".join(bench.details(results))
