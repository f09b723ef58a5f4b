"""The whole pipeline against random networks: `python -m benchmarks.fuzz_pipeline [SECONDS] [SEED]`.

Random ONNX models of every operator, random boxes, and questions whose answer is known from a point that satisfies
them. Checked are the reading of the file (beside ONNX Runtime), the bounds of every layer (beside samples), and every
search with every way of branching, without its attack's help: none may close a question that a point answers. Some
questions go through `verinet.verify` as well, whose witnesses are run again. Prints what does not hold, with the seed
of the network, and counts at the end; exit code 1 if anything was found.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import torch

from benchmarks.fuzzing import arguments, run
from tests.kits.pipeline_fuzz import Case, check_bounds, check_reading, draw, outer, questions, searched, verified
from verinet.errors import VerinetError

SEARCHES = ("input", "neuron", "neuron", "strategy")
SECONDS = 0.4  # of one search
VERIFY = 0.15  # share of questions that go through `verify`


def examine(case: Case, seed: int, counts: Counter[str]) -> list[str]:
    """Everything about one network; what is wrong, in words."""
    random = np.random.default_rng(seed)
    bad = check_reading(case, random)
    if random.random() < 0.3:
        layers, wrong = check_bounds(case, random)
        counts["layers bounded"] += layers
        bad += wrong
    for question in questions(case, random):
        how = SEARCHES[int(random.integers(len(SEARCHES)))]
        counts[f"searched by {how}"] += 1
        wrong_proof = searched(case, question, how, SECONDS, random)
        bad += [wrong_proof] if wrong_proof else []
        if random.random() < VERIFY and question.form != "halves":
            bad += _verified(case, question.text, True, counts)
    if random.random() < VERIFY:
        text = outer(case, random)
        bad += _verified(case, text, False, counts) if text else []
    return bad


def _verified(case: Case, text: str, is_sat: bool, counts: Counter[str]) -> list[str]:
    """`verify` on a question that is sat, or on one that is most likely unsat."""
    try:
        verdict, wrong = verified(case, text, 2.0)
    except VerinetError as error:
        counts[f"verify: {type(error).__name__} {str(error).splitlines()[0][:50]}"] += 1
        return []
    counts[f"verify, {'inside' if is_sat else 'outside'}: {verdict}"] += 1
    if is_sat and verdict == "unsat":
        return ["verify says unsat, but a point is known"]
    return [wrong] if wrong else []


def network(seed: int, counts: Counter[str]) -> list[str]:
    """Draw a network and examine it; one that is refused, or a question that is, only counts."""
    try:
        case = draw(seed)
        counts["refused networks" if case is None else "networks"] += 1
        return [] if case is None else examine(case, seed, counts)
    except VerinetError as error:
        counts[f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"] += 1
        return []


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(run(network, *arguments()))
