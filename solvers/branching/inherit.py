"""What a new leaf takes over from its parent: multipliers, fresh where its own splits have changed the lines."""

from __future__ import annotations

import torch
from torch import Tensor
from verinet.solvers.branching.leaves import Leaves

from verinet.ir.graph import Graph
from verinet.ops.base import NonlinearOp
from verinet.ops.scalar import Elementwise
from verinet.propagation.backward import Backward
from verinet.propagation.ends import seen
from verinet.propagation.optimize import Multipliers, RowProblem, evaluate
from verinet.propagation.rows import rows_of

FIRST_RATE = 0.1  # of slopes, which lie in [0, 1]


def inherited(leaves: Leaves, problem: RowProblem, backward: Backward, per: int) -> Multipliers | None:
    """The parents' multipliers, (domains * per, ...); defaults for functions of the neurons that were split last.

    Operators of several entries count theirs relative to the box, so that in a new box the parent's may be worse than
    the defaults: every row takes what bounds it better. None where there is no parent.
    """
    if leaves.warm is None or leaves.parent is None:
        return None
    index = rows_of(leaves.parent, per)
    warm = {v: tuple(t[index].to(problem.rows.dtype) for t in m) for v, m in leaves.warm.items()}
    joint: dict[int, Tensor] = {}
    for node, entry in leaves.literals.newest():
        touched = set(node.unique().tolist())
        for position in warm:
            inputs = backward.graph.nodes[position].inputs
            if touched.isdisjoint(inputs):
                continue
            op = backward.graph.nodes[position].op
            if isinstance(op, Elementwise):
                _refresh(warm[position], op, inputs[0], (node, entry), problem)
            else:
                mine = torch.isin(node, torch.tensor(inputs, device=node.device))[problem.owners.domain]
                joint[position] = mine | joint[position] if position in joint else mine
    return _better(warm, joint, problem, backward) if joint else warm


def restarted(leaves: Leaves, graph: Graph) -> Tensor:
    """First step sizes (domains,): the inherited ones, but no short steps where planes of several entries are new."""
    several = (n for n in graph.nodes if isinstance(n.op, NonlinearOp) and not isinstance(n.op, Elementwise))
    joint = {i for node in several for i in node.inputs}
    rate = leaves.rate
    for node, _ in leaves.literals.newest():
        new = torch.isin(node, torch.tensor(sorted(joint), device=node.device))
        rate = torch.where(new, rate.clamp(min=FIRST_RATE), rate)
    return rate


def _refresh(
    values: tuple[Tensor, ...], op: Elementwise, source: int, split: tuple[Tensor, Tensor], problem: RowProblem
) -> None:
    """Defaults, in place, for the entries of `source` that were split: node and entry (domains,)."""
    node, entry = split
    row = (node == source)[problem.owners.domain].nonzero().squeeze(1)
    if row.numel() == 0:
        return
    domain = problem.owners.domain[row]
    ends = seen(op, [problem.known[source]])
    low, high = (side[0].reshape(side[0].shape[0], -1)[domain, entry[domain]] for side in ends)
    for old, new in zip(values, op.multipliers([low], [high]), strict=True):
        old.reshape(old.shape[0], -1)[row, entry[domain]] = new.expand_as(low)


def _better(warm: Multipliers, joint: dict[int, Tensor], problem: RowProblem, backward: Backward) -> Multipliers:
    """Per row, the inherited multipliers of the operators named or their defaults; `joint` says for which rows."""
    fresh = dict(warm)
    for position, rows in joint.items():
        node = backward.graph.nodes[position]
        if not isinstance(node.op, NonlinearOp):
            raise TypeError(node.name)
        pairs = [problem.known[i] for i in node.inputs]
        lows, highs = ([problem.owners.gather(pair[end]) for pair in pairs] for end in (0, 1))
        warm[position] = node.op.project(warm[position], lows, highs)
        fresh[position] = _where(rows, node.op.multipliers(lows, highs), warm[position])
    betas = {v: s.beta for v, s in problem.splits.items()}
    new, old = (evaluate(problem, backward, m, betas).bound for m in (fresh, warm))
    return {v: _where(new > old, fresh[v], m) if v in joint else m for v, m in warm.items()}


def _where(rows: Tensor, new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`new` for the rows of a mask."""
    return tuple(
        torch.where(rows.reshape(-1, *(1,) * (b.dim() - 1)), a.expand_as(b), b) for a, b in zip(new, old, strict=True)
    )
