"""Random VNN-LIB 2.0 queries, and what the reference parser's tree says about a point."""

from __future__ import annotations

import importlib
import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

GRID = [0.0, 0.5, -1.0, 1.0, -1.5, 2.0, 0.25, 5.0, -0.75]  # float64 numbers whose small products are exact

HEAD = """(vnnlib-version <2.0>)
(declare-network f
    (declare-input A float32 [2])
    (declare-input b float32 [])
    (declare-hidden H float32 [1,2] "inner")
    (declare-output Y float32 [2])
)
(declare-network g
    (isomorphic-to f)
    (declare-input C float32 [2])
    (declare-input d float32 [])
    (declare-output Z float32 [2])
)
"""
INPUTS = ["A[0]", "A[1]", "b", "C[0]", "C[1]", "d"]
VALUES = ["H[0,0]", "H[0,1]", "Y[0]", "Y[1]", "Z[0]", "Z[1]"]
NUMBERS = ["0.5", "-1.5", "2.0", "0.25", "-3.0"]


def reference() -> Any:
    """The reference parser; the test is skipped where it is not installed."""
    pytest.importorskip("vnnlib")
    return importlib.import_module("vnnlib")


def random_query(draw: random.Random, *, ties: bool = True, box: bool = True) -> str:
    """A query over two networks with hidden entries, polynomials, relations of inputs and outputs, and ties."""
    text = HEAD
    if box:
        text += "".join(f"(assert (and (>= {name} -2.0) (<= {name} 5.0)))\n" for name in INPUTS)
    if ties:
        for left, right in draw.sample(list(zip(INPUTS[:3], INPUTS[3:], strict=True)), draw.randint(0, 3)):
            scaled = draw.choice([right, right, f"(* 2.0 {right})", f"(- 0.5 {right})"])
            text += f"(assert (== {left} {scaled}))\n"
    return text + f"(assert {_formula(draw, 3)})\n(assert {_formula(draw, 1)})\n"


def _term(draw: random.Random, depth: int) -> str:
    if depth == 0 or draw.random() < 0.4:
        return draw.choice([draw.choice(INPUTS), draw.choice(VALUES), draw.choice(NUMBERS)])
    kind = draw.choice(["+", "-", "*", "*", "negate"])
    if kind == "negate":
        return f"(- {_term(draw, depth - 1)})"
    return f"({kind} " + " ".join(_term(draw, depth - 1) for _ in range(draw.randint(2, 3))) + ")"


def _formula(draw: random.Random, depth: int) -> str:
    if depth == 0 or draw.random() < 0.3:
        operator = draw.choice(["<=", ">=", "<", ">", "==", "!="])
        if draw.random() < 0.3:
            return f"({operator} {draw.choice(INPUTS)} {draw.choice(NUMBERS)})"
        return f"({operator} {draw.choice(VALUES + INPUTS)} {_term(draw, 2)})"
    parts = " ".join(_formula(draw, depth - 1) for _ in range(draw.randint(1, 3)))
    return f"({draw.choice(['and', 'or'])} {parts})"


class Oracle:
    """Evaluates the reference parser's tree in rationals, for inputs and for values, in order of declaration."""

    def __init__(self, query: Any) -> None:
        self.query = query
        self.places: dict[str, tuple[int, int, list[int]]] = {}
        sizes = [0, 0]
        for network in query.networks:
            for side, kind in ((0, "inputs"), (1, "hidden"), (1, "outputs")):
                for item in getattr(network, kind):
                    self.places[item.name] = (side, sizes[side], list(item.shape))
                    sizes[side] += int(np.prod(item.shape)) if item.shape else 1
        self.sizes = (sizes[0], sizes[1])

    def holds(self, values: tuple[list[float], list[float]]) -> bool:
        return all(self._truth(item.expr, values) for item in self.query.assertions)

    def _truth(self, node: Any, values: tuple[list[float], list[float]]) -> bool:
        name = type(node).__name__
        if name in ("And", "Or"):
            return (all if name == "And" else any)(self._truth(arg, values) for arg in node.args)
        left, right = self._value(node.lhs, values), self._value(node.rhs, values)
        return {
            "LessThan": left < right,
            "LessEqual": left <= right,
            "GreaterThan": left > right,
            "GreaterEqual": left >= right,
            "Equal": left == right,
            "NotEqual": left != right,
        }[name]

    def _value(self, node: Any, values: tuple[list[float], list[float]]) -> Fraction:
        name = type(node).__name__
        if name == "Var":
            side, offset, shape = self.places[node.name]
            flat = int(np.ravel_multi_index(tuple(node.indices), shape)) if shape else 0
            return Fraction(values[side][offset + flat])
        if name == "Negate":
            return -self._value(node.expr, values)
        if name == "Minus":
            return self._value(node.head, values) - sum(self._value(arg, values) for arg in node.rest)
        if name in ("Plus", "Multiply"):
            parts = [self._value(arg, values) for arg in node.args]
            return sum(parts, Fraction(0)) if name == "Plus" else math.prod(parts, start=Fraction(1))
        return Fraction(node.lexeme)
