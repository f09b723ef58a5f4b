"""Errors name the place and what was expected."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verinet.errors import PropertyError, UsageError, VnnlibSyntaxError
from verinet.spec import parse_property, read_property

HEAD = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
BOX = "(assert (>= X_0 0))\n(assert (<= X_0 1))\n(assert (>= X_1 0))\n(assert (<= X_1 1))\n"

MALFORMED = [
    ("(assert (<= Y_0 1)", 2, 1, "expected '\\)'.*file ends"),
    ("(assert (or (and (<= Y_0 1)) ", 2, 1, "file ends"),
    ("(assert (<= Y_0 1)))", 1, 20, "expected a command.*found '\\)'"),
    ("; note\n  (asert (<= Y_0 1))", 2, 4, "expected a command.*found 'asert'"),
    ("(assert (3.5 Y_0))", 1, 10, "expected an operator.*found '3.5'"),
    ("(assert (and (<= Y_0 1) (0.25 <= Y_0)))", 1, 26, "expected an operator.*found '0.25'"),
    ("(assert (Y_0 <= 3))", 1, 10, "expected an operator.*found 'Y_0'"),
    ("(assert ((<= Y_0 1)))", 1, 10, "expected an operator"),
    ("(assert ())", 1, 10, "expected an operator"),
    ("(assert (<= Y_7 1))", 1, 13, "unknown variable Y_7.*Y_0 .. Y_1"),
    ("(assert (<= X_2 1))", 1, 13, "unknown variable X_2.*X_0 .. X_1"),
    ("(assert (or (and (>= X_0 0) (<= X_9 1))))", 1, 33, "unknown variable X_9"),
    ("(assert (<= Z_0 1))", 1, 13, "found 'Z_0'"),
    ("(assert (<= Y_0 1 2))", 1, 9, "two sides.*found 3"),
    ("(assert (<= Y_0))", 1, 9, "two sides.*found 1"),
    ("(assert (and))", 1, 13, "at least one constraint"),
    ("(assert (<= (+) 1))", 1, 15, "at least one number or variable"),
    ("(assert (<= (and (<= Y_0 1)) 1))", 1, 14, "expected an operator"),
    ("(assert (or (+ Y_0 1)))", 1, 14, "expected an operator"),
    ("(assert (or Y_0))", 1, 13, "a constraint in parentheses"),
    ("(assert)", 1, 8, "a constraint in parentheses"),
    ("(assert true)", 1, 9, "a constraint in parentheses"),
    ("(assert (<= Y_0 1,5))", 1, 17, "found '1,5'"),
    ("(assert (<= Y_0 1) (<= Y_0 2))", 1, 20, "expected '\\)'"),
    ("(declare-const X_0 Real)", 1, 16, "declared twice"),
    ("(declare-const A Real)", 1, 16, "variable X_i or Y_j"),
    ("(declare-const X_2 Int)", 1, 20, "'Real'"),
    ("(declare-fun X_2 Real)", 1, 18, "expected '\\('"),
    ("word", 1, 1, "expected a command"),
    ("(declare-network N (declare-input X real [1]) (declare-output Y real [1]))", 1, 2, "not both"),
]


@pytest.mark.parametrize(("text", "line", "column", "message"), MALFORMED)
def test_malformed_text(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(VnnlibSyntaxError, match=message) as caught:
        parse_property(HEAD + BOX + text + "\n", "query.vnnlib")
    before = (HEAD + BOX).count("\n")
    assert (caught.value.file, caught.value.line - before, caught.value.column) == ("query.vnnlib", line, column)
    assert f"query.vnnlib, line {line + before}, column {column}" in str(caught.value)


def test_odd_command_in_a_long_run_is_placed() -> None:
    lines = ["(assert (<= X_0 0.5))"] * 5000 + ["(assert (<= X_0 x))"] + ["(assert (<= X_0 0.5))"] * 50
    with pytest.raises(VnnlibSyntaxError, match="found 'x'") as caught:
        parse_property(HEAD + "\n".join(lines))
    assert (caught.value.line, caught.value.column) == (5005, 17)


UNSUPPORTED = [
    (f"(assert (<= (*{' Y_0' * 17}) 1))", "more than 16 variables"),
    ("(assert (<= Y_0 1e999))", "outside the range of float64"),
    ("(assert (<= X_0 1e999))", "outside the range of float64"),
]


@pytest.mark.parametrize(("text", "message"), UNSUPPORTED)
def test_unsupported_constraints_are_named(text: str, message: str) -> None:
    with pytest.raises(PropertyError, match=message) as caught:
        parse_property(HEAD + BOX + text, "q")
    assert not isinstance(caught.value, VnnlibSyntaxError)
    assert "line 9" in caught.value.where


def test_a_product_with_too_many_terms_is_named() -> None:
    total = "(+" + "".join(f" Y[{j}]" for j in range(200)) + ")"
    text = "(vnnlib-version <2.0>)(declare-network N (declare-input X real [1]) (declare-output Y real [200]))"
    with pytest.raises(PropertyError, match="more than 20000 terms") as caught:
        parse_property(f"{text}\n(assert (<= (* {total} {total}) 1.0))", "q")
    assert "line 2, column 13" in caught.value.where


def test_unbounded_inputs_are_named() -> None:
    text = HEAD + "(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= X_1 0))(assert (<= Y_0 1))"
    with pytest.raises(PropertyError, match="X_1 has no upper bound"):
        parse_property(text)
    with pytest.raises(PropertyError, match=r"X_0 \(and 1 more\) has no lower bound"):
        parse_property(HEAD + f"(assert (or (<= Y_0 1) (and {BOX.replace('(assert ', '').replace('))', ')')} )))")


def test_sizes_must_fit_the_network() -> None:
    text = HEAD + BOX + "(assert (<= Y_0 1))"
    with pytest.raises(PropertyError, match="declares 2 inputs, but the network has 784"):
        parse_property(text, inputs=784, outputs=2)
    with pytest.raises(PropertyError, match="declares 2 outputs, but the network has 10"):
        parse_property(text, inputs=2, outputs=10)


def test_gaps_in_declarations() -> None:
    with pytest.raises(PropertyError, match="X_0 is not declared, but X_1 is"):
        parse_property("(declare-const X_1 Real)(declare-const Y_0 Real)(assert (<= X_1 1))")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot open"):
        read_property(tmp_path / "missing.vnnlib")
    for name, content in (("a.vnnlib.gz", b"(assert"), ("b.vnnlib", b"\xff\xfe\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PropertyError, match="cannot unpack|no text"):
            read_property(tmp_path / name)
    for text in ("", "; nothing\n"):
        with pytest.raises(PropertyError, match="declares no inputs"):
            parse_property(text)


PIECES = [
    "(",
    ")",
    " ",
    "\n",
    "[0]",
    "[",
    '"',
    "and",
    "or",
    "<=",
    "=",
    "-",
    "*",
    "X_0",
    "Y_1",
    "X",
    "1e5",
    ".",
    ";",
    "é",
]
VERSION_2 = (
    "(vnnlib-version <2.0>)\n(declare-network N (declare-input X float32 [2]) (declare-output Y real []))\n"
    "(assert (and (<= X[0] 1.0) (>= X[0] 0.0)))(assert (<= X[1] 1.0))(assert (>= X[1] 0.0))\n"
    "(assert (or (<= (+ Y 1.0) 2.0) (> Y 3.0)))"
)


@given(st.booleans(), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 6), st.sampled_from(PIECES)), max_size=4))
def test_broken_text_gives_typed_errors_only(second: bool, edits: list[tuple[int, int, str]]) -> None:
    text = VERSION_2 if second else HEAD + BOX + "(assert (or (and (<= Y_0 1) (>= X_0 0.5)) (<= (+ Y_0 Y_1) 2)))"
    for position, removed, piece in edits:
        text = text[:position] + piece + text[position + removed :]
    with contextlib.suppress(PropertyError):
        parse_property(text)
