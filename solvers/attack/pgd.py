"""Random points, corners and projected gradient descent with restarts, on all clauses at once (Madry et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.branching.input_split import violating
from verinet.solvers.branching.outcome import Offer
from verinet.solvers.query import Clock, Query

from verinet.ir.graph import Graph, total

MAX_ENTRIES = 20_000_000  # of the widest layer in one forward pass
MAX_STEP = 8_000_000  # of the widest layer in one gradient step, which has to end soon where time is short
MOST_SORTED = 4096  # clauses


@dataclass(frozen=True, slots=True)
class AttackPlan:
    """`restarts` points per clause, `steps` gradient steps each; `batch` bounds the points per forward pass."""

    restarts: int = 16
    steps: int = 30
    batch: int = 2048


class Attack:
    """Proposes violations of a query. `graph` is the network in its own dtype on the search device."""

    def __init__(self, query: Query, graph: Graph, seed: int) -> None:
        self.query, self.graph = query, graph
        self.generator = torch.Generator(device="cpu").manual_seed(seed)
        boxes = []
        for box, count in enumerate(query.table.clauses.tolist()):
            boxes += [box] * count
        self.clause_box = torch.tensor(boxes, dtype=torch.int64)
        self.widest = max(total(n.shape) for n in graph.nodes)
        self._turn = 0

    def _uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64).to(self.query.lower.device)

    def sample(self, offer: Offer, points: int) -> bool:
        """Centres, `points` random points and as many random corners of up to 256 boxes; True when one was taken."""
        query = self.query
        count = min(query.boxes, 256)
        chosen = torch.randperm(query.boxes, generator=self.generator)[:count].to(query.lower.device)
        low, high = query.lower[chosen], query.upper[chosen]
        per = max(1, points // count)
        spot = self._uniform((per, count, low.shape[1]))
        corners = (self._uniform((per, count, low.shape[1])) < 0.5).double()
        x = torch.cat([spot, corners]) * (high - low) + low
        x = torch.cat([((low + high) * 0.5).unsqueeze(0), x]).reshape(-1, low.shape[1])
        box = chosen.repeat(2 * per + 1)
        return self._try(x, box, offer)

    def _try(self, x: Tensor, box: Tensor, offer: Offer) -> bool:
        """Offer the points whose float64 outputs violate their box's property."""
        size = max(1, MAX_ENTRIES // self.widest)
        for begin in range(0, len(x), size):
            part = slice(begin, begin + size)
            bad = violating(self.query, self.query.graph.forward(x[part]), box[part])
            if bool(bad.any()) and offer(x[part][bad][:16].cpu().numpy()):
                return True
        return False

    def descend(self, plan: AttackPlan, offer: Offer, clock: Clock) -> bool:
        """Gradient descent on the worst row of each clause, from random starts; True when `offer` took a point."""
        clauses = self._order()
        points = min(plan.batch, max(plan.restarts, MAX_STEP // self.widest))
        per_round = max(1, points // plan.restarts)
        for begin in range(0, len(clauses), per_round):
            if clock.over():
                return False
            if self._round(clauses[begin : begin + per_round], plan, offer, clock):
                return True
        return False

    def _order(self) -> Tensor:
        """Clauses (clauses,): every third time at random, else those first that the boxes' centres nearly satisfy."""
        self._turn += 1
        clauses = torch.randperm(len(self.clause_box), generator=self.generator)
        if self._turn % 3 == 0 or len(clauses) > MOST_SORTED:
            return clauses
        centres = (self.query.lower + (self.query.upper - self.query.lower) * 0.5).to(_dtype(self.graph))
        size = max(1, MAX_ENTRIES // self.widest)
        with torch.no_grad():
            outputs = torch.cat([self.graph.forward(part) for part in centres.split(size)])
        slack = _ClauseSlack(self.query, clauses)(outputs[self.clause_box[clauses].to(outputs.device)])
        return clauses[torch.nan_to_num(slack, nan=torch.inf).argsort().cpu()]

    def _round(self, clauses: Tensor, plan: AttackPlan, offer: Offer, clock: Clock) -> bool:
        box = self.clause_box[clauses].repeat_interleave(plan.restarts).to(self.query.lower.device)
        slack = _ClauseSlack(self.query, clauses.repeat_interleave(plan.restarts))
        low, high = self.query.lower[box], self.query.upper[box]
        width = high - low
        x = low + self._uniform(tuple(low.shape)) * width
        dtype = _dtype(self.graph)
        step = 0.25
        for _ in range(plan.steps):
            if clock.over():
                return False
            point = x.to(dtype, copy=True).requires_grad_(True)
            value = slack(self.graph.forward(point))
            hit = value.detach() <= 0
            if bool(hit.any()) and self._try(x[hit], box[hit], offer):
                return True
            if not value.requires_grad:  # steps only: there is nothing to descend along
                return False
            found: tuple[Tensor | None, ...] = torch.autograd.grad(value.sum(), point, allow_unused=True)
            gradient = found[0]
            if gradient is None:
                return False
            direction = gradient.sign().double()
            stuck = (gradient == 0).all(1)
            x = torch.minimum(torch.maximum(x - step * 0.5 * width * direction, low), high)
            if bool(stuck.any()):
                x[stuck] = (low + self._uniform(tuple(low.shape)) * width)[stuck]
            step *= 0.9
        return self._try(x, box, offer)


def _dtype(graph: Graph) -> torch.dtype:
    for node in graph.nodes:
        for value in vars(node.op).values():
            if isinstance(value, Tensor) and value.is_floating_point():
                return value.dtype
    return torch.float64


class _ClauseSlack:
    """Differentiable slack of given clauses: max over rows of w.y - d, <= 0 when the clause holds (a violation)."""

    def __init__(self, query: Query, clauses: Tensor) -> None:
        table = query.table
        rows_per_clause = _rows_per_clause(query)
        first = torch.cat([torch.zeros(1, dtype=torch.int64), rows_per_clause.cumsum(0)])
        count = rows_per_clause[clauses]
        offset = torch.arange(max(1, int(count.max())))
        ids = (first[clauses].unsqueeze(1) + torch.minimum(offset, (count - 1).unsqueeze(1))).to(table.weights.device)
        weights, bounds = table.weights, table.bounds
        if bool((count == 0).any()):  # a clause without rows always holds
            ids[(count == 0).to(ids.device)] = len(bounds)
            weights = torch.cat([weights, weights.new_zeros(1, weights.shape[1])])
            bounds = torch.cat([bounds, bounds.new_full((1,), torch.inf)])
        self.weights, self.bounds = weights[ids], bounds[ids]

    def __call__(self, outputs: Tensor) -> Tensor:
        value = torch.einsum("pm,prm->pr", outputs.double(), self.weights) - self.bounds
        return value.amax(1)


def _rows_per_clause(query: Query) -> Tensor:
    """(clauses,) on the CPU, in the order of the table."""
    table = query.table
    boxes = torch.repeat_interleave(torch.arange(query.boxes, device=table.starts.device), table.starts.diff())
    first_clause = torch.cat([torch.zeros(1, dtype=torch.int64, device=boxes.device), table.clauses.cumsum(0)])[:-1]
    number = first_clause[boxes] + table.clause
    return torch.bincount(number, minlength=int(table.clauses.sum())).cpu()
