"""How neuron splitting branches. None of it can make an answer less certain: any split covers its domain."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Score(Enum):
    """What ranks the splits before the best few are tried."""

    DUAL = "the change of the node's certified looseness at the relaxed forward point"
    BBPS = "bounds of the children with the root's planes as shortcuts (GenBaB, Shi et al. 2025, section 3.2)"
    BABSR = "intercepts of the lines, and for ReLU the bias of the neuron (Bunel et al. 2020)"
    INTERCEPT = "intercepts of the lines alone"


class Points(Enum):
    """Where an interval is split."""

    BEST = "the best of midpoint, kinks and inflection points by the score"
    WIDE = "the same, with the quarters of the interval too"
    MIDDLE = "the midpoint, for piecewise linear functions a kink"
    TABLE = (
        "smooth functions: least area between both children's lines, from a table (GenBaB, section 3.3); others: BEST"
    )


class Inputs(Enum):
    """What may be split."""

    ALL = "inputs of any nonlinear operator"
    SCALAR = "inputs of functions of one variable"
    HINGES = "inputs of ReLU and other functions with one kink"


@dataclass(frozen=True, slots=True)
class Branching:
    """The defaults are what measured best in benchmarks/bench_branching.py."""

    score: Score = Score.DUAL
    points: Points = Points.TABLE
    inputs: Inputs = Inputs.ALL
    candidates: int = 3  # tried by one real bound of both children; 1 trusts the score
    learning: bool = True  # what tried splits gained corrects the scores of the same entries later
    per_kind: int = 2  # of them at least so many of each kind of operator, if it has any
    together: int = 1  # most splits of one domain at once, where the batch is not full
    tries: bool = True  # tried splits that close one child give the leaf the literal of the other side
    cuts: bool = False  # closed leaves are shortened to sets of literals that rule out parts of others
