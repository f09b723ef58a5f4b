"""A query is read without a note exactly when the reference parser accepts it."""

from __future__ import annotations

import random

import pytest

from tests.kits.vnnlib_oracle import HEAD, random_query, reference
from verinet.errors import PropertyError
from verinet.spec.reader import parse_formula

BOX = "(assert (>= A[0] -1.0))"
CASES = [
    ("(assert (>= A[0] 1))", "a float32 variable is compared with a constant 1"),
    ("(assert (>= A[0] -1))", "constant -1"),
    ("(assert (>= Y[0] (+ A[0] 1)))", "constant 1"),
    ("(assert (>= A[0] 1e-3))", "numbers are written like"),
    ("(assert (>= A[0] .5))", "numbers are written like"),
    ("(assert (>= A[0] 1.))", "numbers are written like"),
    ("(assert (>= A[0] +1.5))", "numbers are written like"),
    ("(assert (or (>= A[0] 1E2) (<= Y[0] 1.0)))", "numbers are written like"),
    ("(assert (= A[0] 1.0))", "equality is written =="),
    ("(declare-network h (declare-input I int64 [1]) (declare-output J uint8 [1]))\n" + BOX, "before the first"),
]


@pytest.mark.parametrize(("text", "note"), CASES)
def test_what_the_standard_does_not_allow_is_noted(text: str, note: str) -> None:
    formula = parse_formula(HEAD + BOX + "\n" + text, "q")
    assert any(note in one for one in formula.notes), formula.notes
    with pytest.raises(reference().VNNLibException):
        reference().parse_query_string(HEAD + BOX + "\n" + text)


HEADS = [
    ("(vnnlib-version 2.0)", "written as <2.0>"),
    ("", "begins with"),
    (
        "(vnnlib-version <2.0>)\n(declare-network a (declare-output U real [1]) (declare-input V real [1]))",
        "come before",
    ),
    (
        '(vnnlib-version <2.0>)\n(declare-network a (declare-input U real [1] "u") (declare-output V real [1]))',
        "ONNX name",
    ),
    ("(vnnlib-version <2.0>)\n(declare-network a-b (declare-input U real [1]) (declare-output V real [1]))", "letters"),
    (
        "(vnnlib-version <2.0>)\n(declare-network a (declare-input U real [1]) (declare-output V real [1]))\n"
        "(declare-network c (isomorphic-to a) (declare-input U2 float32 [1]) (declare-output V2 real [1]))",
        "differ in element types",
    ),
]


@pytest.mark.parametrize(("head", "note"), HEADS)
def test_declarations_that_the_standard_does_not_allow_are_noted(head: str, note: str) -> None:
    text = head + "\n" + HEAD.partition("\n")[2] + BOX
    assert any(note in one for one in parse_formula(text, "q").notes)
    with pytest.raises(reference().VNNLibException):
        reference().parse_query_string(text)


TYPED = """(vnnlib-version <2.0>)
(declare-network n
    (declare-input X float32 [1])
    (declare-input K int64 [1])
    (declare-input U uint8 [1])
    (declare-output Y real [1])
    (declare-output Z float16 [])
)
"""
WORDS = ["X[0]", "K[0]", "U[0]", "Y[0]", "Z", "1.5", "2", "-2", "-0.5"]


@pytest.mark.parametrize("seed", range(200))
def test_types_are_noted_where_the_reference_parser_refuses_them(seed: int) -> None:
    draw = random.Random(seed)

    def term(depth: int) -> str:
        if depth == 0 or draw.random() < 0.5:
            return draw.choice(draw.choice([WORDS, ["X[0]", "1.5", "-0.5"], ["K[0]", "2", "-2"]]))
        return f"({draw.choice('+-*')} {term(depth - 1)} {term(depth - 1)})"

    text = TYPED + f"(assert ({draw.choice(['<=', '>', '=='])} {term(1)} {term(1)}))"
    assert accepted(text) == (parse_formula(text, "q").notes in ((), (STRICT,))), text


STRICT = "strict bounds on inputs are proved on the closed box; witnesses satisfy them strictly"


def accepted(text: str) -> bool:
    try:
        reference().parse_query_string(text)
    except reference().VNNLibException:
        return False
    return True


@pytest.mark.parametrize("seed", range(250))
def test_spoiled_queries_are_refused_or_noted(seed: int) -> None:
    """One character or token less or more, somewhere."""
    draw = random.Random(seed)
    text = random_query(draw, ties=False, box=False)
    place = draw.randrange(len(HEAD) if draw.random() < 0.5 else 0, len(text))
    change = draw.choice(["", "(", ")", "1", "-", "[", "]", ",", "x", " ", '"', "=", "."])
    spoiled = text[:place] + change + text[place + (1 if change == "" or draw.random() < 0.5 else 0) :]
    try:
        notes = parse_formula(spoiled, "q").notes
    except PropertyError as problem:
        assert "line " in problem.where or "declares" in str(problem)
        if accepted(spoiled):
            # The reference parser takes any word for an element type, and numbers with a point for an index.
            assert any(word in str(problem) for word in ("element type", "out of range", "indices", "is 0", "shape"))
        return
    if not accepted(spoiled):
        assert notes, spoiled
