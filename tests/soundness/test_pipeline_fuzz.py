"""Random ONNX networks through the whole pipeline; `python -m benchmarks.fuzz_pipeline` does the same for longer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.kits.pipeline_fuzz import (
    Case,
    Question,
    check_bounds,
    check_reading,
    decimal,
    draw,
    linear,
    outer,
    questions,
    searched,
    text_of,
    value,
    verified,
)
from tests.kits.random_onnx import RULES

READ, BOUNDED, SEARCHED = 250, 14, 9
SECONDS = 0.2  # of a search that must not end


def cases(first: int, count: int) -> list[tuple[int, Case]]:
    """The next networks that are not refused."""
    found: list[tuple[int, Case]] = []
    seed = first
    while len(found) < count:
        case = draw(seed)
        if case is not None:
            found.append((seed, case))
        seed += 1
    return found


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_networks_are_read_as_onnx_runtime_runs_them() -> None:
    seen: set[str] = set()
    for seed, case in cases(0, READ):
        assert check_reading(case, generator(seed)) == [], seed
        seen |= set(case.ops)
    assert len(seen) >= 80  # kinds of operators
    assert len(RULES) >= 70


def test_bounds_of_every_layer_enclose_samples() -> None:
    layers = 0
    for seed, case in cases(300, BOUNDED):
        count, bad = check_bounds(case, generator(seed))
        layers += count
        assert bad == [], seed
    assert layers >= 10 * BOUNDED


@pytest.mark.parametrize("how", ["input", "neuron", "strategy"])
def test_no_search_closes_what_a_point_answers(how: str) -> None:
    asked = 0
    for seed, case in cases(2000, SEARCHED):
        random = generator(seed)
        for question in questions(case, random):
            assert searched(case, question, how, SECONDS, random) is None, seed
            asked += 1
    assert asked >= 2 * SEARCHED


@pytest.mark.parametrize("how", ["input", "neuron", "strategy"])
def test_a_search_that_closes_is_noticed(how: str) -> None:
    """The checks above can fail: beyond the largest output, the same search does close."""
    case = draw_only(["Gemm", "Relu", "Tanh"])
    random = generator(1)
    question = next(iter(questions(case, random)))
    beyond = text_of(case, f"(assert (>= {linear(np.eye(case.graph.output_size)[0])} {decimal(1e4)}))")
    wrong = searched(case, replace(question, text=beyond), how, 5.0, random)
    assert wrong is not None and "closed" in wrong


def draw_only(names: list[str]) -> Case:
    """A small network of the rules named."""
    return next(case for seed in range(50) if (case := draw(seed, names)) is not None and case.kind == "medium")


def test_verify_finds_what_is_clearly_there_and_proves_no_more() -> None:
    verdicts: list[str] = []
    for seed, case in cases(4000, 6):
        random = generator(seed)
        question = next(iter(questions(case, random)), None)
        texts = [(outer(case, random), False)] + ([(question.text, True)] if question else [])
        for text, there in texts:
            if text is None:
                continue
            verdict, wrong = verified(case, text, 3.0)
            assert wrong is None, seed
            assert not (there and verdict == "unsat"), seed
            verdicts.append(verdict)
    assert {"sat", "unsat"} <= set(verdicts)


def _verdict(case: Case, asserts: str) -> str:
    verdict, wrong = verified(case, text_of(case, asserts), 5.0)
    assert wrong is None
    return verdict


def test_verdicts_do_not_depend_on_how_the_question_is_put() -> None:
    """Redundant rows, rows times powers of two, and the order of rows."""
    case = draw_only(["Gemm", "Relu"])
    row = np.eye(case.graph.output_size)[0]
    question: Question = next(iter(questions(case, generator(0))))
    values = value(case.graph, question.point[None])[0]
    for limit, expected in ((float(values[0]) - 0.01, "sat"), (1e3, "unsat")):
        plain = f"(assert (>= {linear(row)} {decimal(limit)}))"
        scaled = f"(assert (>= {linear(row * 2.0**20)} {decimal(limit * 2.0**20)}))"
        spare = f"(assert (>= {linear(row)} -100000.0))"
        for text in (plain, scaled, plain + "\n" + spare, spare + "\n" + scaled):
            assert _verdict(case, text) == expected
