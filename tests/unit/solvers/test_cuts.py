"""Learned clauses: what holds in a leaf, what follows, and that shortening keeps to its share of the work."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from verinet.solvers.branching import cuts, cuts_clauses
from verinet.solvers.branching.cuts_clauses import Key, LearnedClauses, keys_of
from verinet.solvers.branching.cuts_tried import Literal, Tried
from verinet.solvers.branching.leaves import Choice, Leaves, children
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.options import Branching
from verinet.solvers.branching.outcome import End
from verinet.solvers.branching.splits import Literals
from verinet.solvers.root import Root

from tests.soundness.networks import random_graph
from tests.soundness.test_exact import exact_minimum
from tests.unit.solvers.branching_networks import split
from tests.unit.solvers.queries import one_row, silent
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations import find
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import Elementwise
from verinet.propagation.backward import InputRows, Trace
from verinet.propagation.ends import HalfOpen
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import Multipliers, Optimized

CPU = torch.device("cpu")
A: Key = (1, 0, 1.0, 0.5, False)  # z0 >= 0.5
B: Key = (1, 1, -1.0, 0.0, False)  # z1 <= 0
C: Key = (1, 2, 1.0, 0.0, True)  # z2 > 0


def bounds(*pairs: tuple[float, float]) -> dict[int, Interval]:
    """Of the entries of node 1 in one leaf."""
    ends = torch.tensor(pairs, dtype=torch.float64).T.unsqueeze(1)
    return {1: (ends[0], ends[1])}


def told(learned: LearnedClauses, known: dict[int, Interval], clause: int = 0) -> tuple[bool, list[Key]]:
    """Whether the leaf is closed, and the literals that do not hold in it."""
    found = learned.tell(torch.tensor([clause]), known)
    columns = found.votes[0].nonzero().squeeze(1).tolist()
    return bool(found.closed[0]), [learned.keys[c] for c in columns]


def learned_of(*sets: set[Key]) -> LearnedClauses:
    learned = LearnedClauses(CPU)
    for keys in sets:
        assert learned.add(0, frozenset(keys))
    return learned


def test_what_bounds_say() -> None:
    learned = learned_of({A, B})
    assert told(learned, bounds((0.5, 2), (-3, 0), (-1, 1))) == (True, [])
    assert told(learned, bounds((0.4, 2), (-3, 0), (-1, 1))) == (False, [A])
    assert told(learned, bounds((0.7, 2), (-3, 0.1), (-1, 1))) == (False, [B])
    assert told(learned, bounds((0.4, 2), (-3, 0.1), (-1, 1))) == (False, [])
    assert told(learned, bounds((-1, 0.5), (-3, 0), (-1, 1))) == (False, [])  # nothing new: the point alone is left
    assert told(learned, bounds((-1, 0.3), (-3, 0), (-1, 1))) == (False, [])  # the set is ruled out already
    assert told(learned, bounds((0.5, 2), (-3, 0), (-1, 1)), clause=1) == (False, [])  # a set of another clause
    assert told(learned, bounds((float("nan"), 2), (-3, 0), (-1, 1))) == (False, [A])


def test_open_sides_need_open_ends() -> None:
    learned = learned_of({A, C})
    closed = bounds((0.5, 2), (-3, 0), (0, 1))
    assert told(learned, closed) == (False, [C])
    marks = torch.tensor([[False, False, True]])
    assert told(learned, {1: HalfOpen(closed[1], marks, torch.zeros_like(marks))}) == (True, [])
    assert told(learned, bounds((0.5, 2), (-3, 0), (1e-9, 1))) == (True, [])


def test_sets_that_say_less_go() -> None:
    learned = learned_of({A, B, C})
    assert not learned.add(0, frozenset({A, B, C}))
    assert learned.add(0, frozenset({A, B}))
    assert learned.sets == [(0, frozenset({A, B}))]
    assert not learned.add(0, frozenset({A, B, C}))
    assert learned.add(1, frozenset({A, B, C})) and len(learned) == 2
    assert learned.nodes() == {1}


def test_the_shortest_sets_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts_clauses, "MOST", 4)
    learned = LearnedClauses(CPU)
    for size in (3, 2, 4, 1, 5):
        learned.add(0, frozenset((size, i, 1.0, 0.0, False) for i in range(size)))
    assert sorted(len(keys) for _, keys in learned.sets) == [1, 2]


def test_keys_of_padded_literals() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    literals = Literals.none(2, like)
    for node in (1, -1):
        one = torch.ones(2, dtype=torch.float64)
        literals = literals.extended(torch.tensor([node, 1]), torch.tensor([3, 4]), -one, 0.25 * one)
    assert keys_of(literals, 0) == [(1, 3, -1.0, 0.25, False)]
    assert keys_of(literals, 1) == [(1, 4, -1.0, 0.25, False)] * 2


def hard(seed: int) -> tuple[NeuronSplit | None, Branching]:
    """A search just below the exact minimum of a random ReLU network."""
    graph = random_graph(seed, "Relu", "chain", 2, 8)
    box = -torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    row = torch.tensor([1.0, -0.5], dtype=torch.float64)
    least = exact_minimum(graph, *box, row)[1]
    query = one_row(graph, box, row, least - 0.01 * (1 + abs(least)), 60.0)
    root = Root(query, query.clock)
    clauses = root.bound(silent)
    search = NeuronSplit(query, root.engines(), root.layers, clauses, batch=8) if clauses else None
    return search, Branching(cuts=True)


def test_shortening_keeps_to_its_share() -> None:
    """It may overdraw by one batch of leaves, no more; passes are counted, so this repeats."""
    spent = 0
    for seed in range(3):
        search, options = hard(seed)
        if search is None:
            continue
        search.branching = options
        search.gauge.due = lambda anchors: anchors[:0]  # type: ignore[method-assign]
        assert search.run(search.query.clock, lambda found: False, silent).end is End.CLOSED
        saved = search.cuts.closed + cuts.SAVED * search.cuts.implied
        batch = cuts.AT_ONCE * 64  # of a leaf with at most 16 literals: each alone, five rounds of bisection, the gate
        assert search.cuts.passes <= cuts.LEAF * (cuts.SHARE * search.made + saved) + batch
        spent += search.cuts.passes
        assert search.open == 0 and search.closed * 2 >= search.made  # leaves that a core closes count once
    assert spent > 0


def test_cuts_are_off_unless_asked_for() -> None:
    search, options = hard(0)
    assert search is not None
    plain = split(search.query, Branching(cuts=False))
    assert plain == split(search.query, Branching())
    assert split(search.query, options)[0] is plain[0] is End.CLOSED


def test_literals_that_follow_are_negations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leaf gets the other side of the split, right after the literals that it has."""
    search, _ = hard(0)
    assert search is not None
    leaf = search.stack[0]
    node, (low, high) = next((v, pair) for v, pair in search.anchors.exact.items() if bool((pair[0] < pair[1]).any()))
    entry = int((high - low).reshape(-1).argmax())
    middle = float((low + high).reshape(-1)[entry]) / 2
    search.cuts.learned.add(0, frozenset({(node, entry, 1.0, middle, False)}))
    after = search.cuts.apply(leaf)
    assert keys_of(after.literals, 0) == [(node, entry, -1.0, middle, False)] and search.cuts.implied == 1
    again = search.cuts.apply(after)  # it holds now, so nothing more follows
    assert keys_of(again.literals, 0) == keys_of(after.literals, 0)
    search.cuts.learned.add(0, frozenset({(node, entry, -1.0, middle, False)}))
    assert len(search.cuts.apply(after)) == 0 and search.cuts.closed == 1


def test_tried_splits_save_domains() -> None:
    """What tries refute need not be split on again; exact decisions, so nothing is lost."""
    with_tries = without = 0
    for seed in range(2):
        search, _ = hard(seed)
        if search is None:
            continue
        ends, counts = zip(*(split(search.query, Branching(tries=tries)) for tries in (True, False)), strict=True)
        assert set(ends) == {End.CLOSED}
        with_tries, without = with_tries + counts[0], without + counts[1]
    assert 0 < with_tries < without


def layers(*names: str) -> Graph:
    """Eight entries through matrices 1, 3, 5, ..., each followed by one of the functions."""
    nodes = [Node(InputOp(8), (), (8,), "x")]
    for name in names:
        nodes.append(Node(Dense(torch.eye(8, dtype=torch.float64), None), (len(nodes) - 1,), (8,), f"d{len(nodes)}"))
        function = find(name, {})
        assert function is not None
        nodes.append(Node(Elementwise(function, 1), (len(nodes) - 1,), (8,), name))
    return Graph(tuple(nodes))


GRAPH = layers("Relu", "Tanh", "Relu", "Floor")


def leaves(domains: int, literals: Literals) -> Leaves:
    real = torch.zeros(domains, dtype=torch.float64)
    zero = torch.zeros(domains, dtype=torch.int64)
    return Leaves(zero, real, real + 1, zero, real, literals)


def chosen(node: list[int], index: list[int], point: float = 0.0) -> Choice:
    numbers = torch.tensor(node), torch.tensor(index)
    return Choice(*numbers, torch.full((len(node),), point, dtype=torch.float64), torch.ones(len(node)) > 0)


def given(parents: Leaves, follows: list[Literal]) -> list[list[Key]]:
    """The literals of leaves after they have taken over what follows."""
    for literal in follows:
        parents.literals = parents.literals.extended(*literal)
    return [keys_of(parents.literals, i) for i in range(len(parents))]


def state(rows: int) -> Optimized:
    one = torch.arange(rows, dtype=torch.float64).unsqueeze(1)
    nothing = torch.zeros(rows, 1)
    return Optimized(nothing[:, 0], InputRows(nothing, nothing[:, 0]), {2: (one,)}, {}, Trace())


def test_only_what_the_float64_engine_confirms_is_given() -> None:
    """Three leaves; the first loses an upper side, the second a lower side that is not confirmed, the third nothing."""
    asked: list[tuple[list[Key], list[float]]] = []

    def certify(children: Leaves, multipliers: Multipliers) -> Tensor:
        keys = [keys_of(children.literals, i)[-1] for i in range(len(children))]
        asked.append((keys, multipliers[2][0].reshape(-1).tolist()))
        return torch.tensor([1.0 if key[2] > 0 else -1.0 for key in keys])

    tried = Tried(certify, 2, GRAPH)
    parents = leaves(3, Literals.none(3, torch.zeros(1, dtype=torch.float64)))
    tried.begin()
    split_on, other, jump = (
        chosen([1, 1, 1], [0, 0, 0]),
        chosen([1, 1, 1], [5, 6, 7], 0.25),
        chosen([7, 7, 7], [1, 1, 1]),
    )
    smooth = chosen([3, 3, 3], [1, 1, 1])
    for choice, closed in ((split_on, (0, 1, 2)), (other, (0, 4)), (jump, (0, 1, 2)), (smooth, (0, 1, 2))):
        margin = torch.full((6,), -1.0)
        margin[list(closed)] = 1.0
        tried.note(children(parents, [choice], {}), state(12), margin)
    follows = tried.implications(parents, torch.arange(3), [split_on])
    upper, lower = (1, 5, 1.0, 0.25, False), (1, 6, -1.0, 0.25, False)
    assert asked == [([upper, lower], [0.0, 1.0, 8.0, 9.0])]  # not the split, a jump's closed side, a smooth function
    assert given(parents, follows) == [[(1, 5, -1.0, 0.25, False)], [], []]
    assert tried.implied == 1 and tried.checked == 2


def test_an_open_side_at_a_jump_has_a_known_other_side() -> None:
    tried = Tried(lambda children, multipliers: torch.ones(len(children)), 1, GRAPH)
    parents = leaves(1, Literals.none(1, torch.zeros(1, dtype=torch.float64)))
    choice = Choice(
        *(torch.tensor([v]) for v in (7, 3)), torch.ones(1).double(), torch.ones(1) > 0, torch.tensor([-1.0])
    )
    tried.note(children(parents, [choice], {}), state(2), torch.tensor([-1.0, 1.0]))
    follows = tried.implications(parents, torch.tensor([0]), [chosen([1], [0])])
    assert given(parents, follows) == [[(7, 3, 1.0, 1.0, False)]]
    tried.note(children(parents, [chosen([7], [3], 1.0)], {}), state(2), torch.tensor([-1.0, 1.0]))
    assert tried.implications(parents, torch.tensor([0]), [chosen([1], [0])]) == []  # known already
