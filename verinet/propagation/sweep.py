"""Bounds of all nodes that feed nonlinear ones, for a batch of domains: rows only where they still matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from verinet.ir.graph import Graph, Node, total
from verinet.numerics.memory import out_of_memory, release
from verinet.ops.base import Frame, LinearOp, Lines, NonlinearOp
from verinet.ops.scalar import DomainError
from verinet.propagation.backward import Backward, InputRows, Relaxation
from verinet.propagation.ends import carried, seen, within
from verinet.propagation.interval import Interval, interval_pass, node_interval
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.tails import Tails
from verinet.propagation.windows import Given, Panorama


@dataclass(slots=True)
class Layers:
    """Bounds over a batch of domains: `known` for the inputs of nonlinear nodes, `lines` for the nonlinear nodes.

    `infeasible` marks domains whose bounds cross: no real input can satisfy their constraints.
    """

    lower: Tensor  # (domains, inputs)
    upper: Tensor
    known: dict[int, Interval] = field(default_factory=dict)
    lines: dict[int, Lines] = field(default_factory=dict)
    infeasible: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    @property
    def relaxation(self) -> Relaxation:
        return Relaxation(self.lines)


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """How much work to spend: no rows at all, plain rows, or rows with optimised slopes."""

    rows: bool = True
    step: Step | None = None  # optimise slopes of rows that stay undecided
    memory: int = 4 << 20  # bytes of the largest coefficient tensor of one chunk
    deadline: Callable[[], bool] | None = None  # True when time is over: fall back to what is there


Found = Callable[[int, Tensor, Tensor, InputRows], None]
"""Called with (node, domain, flat index, rows): first half of the rows are lower, second half negated upper bounds."""


def bounded_nodes(graph: Graph) -> tuple[int, ...]:
    """Nodes whose bounds shape a relaxation: all inputs of nonlinear nodes, in order."""
    found = {i for n in graph.nodes if isinstance(n.op, NonlinearOp) for i in n.inputs}
    return tuple(sorted(found))


def exact_by_interval(graph: Graph) -> frozenset[int]:
    """Nodes for which interval bounds are already exact: at most one mixing linear operator since the input."""
    mixing: list[int] = [0]
    for node in graph.nodes[1:]:
        depth = max(mixing[i] for i in node.inputs)
        if isinstance(node.op, LinearOp):
            mixing.append(depth + (0 if node.op.diagonal and len(node.inputs) == 1 else 1))
        else:
            mixing.append(depth + 10)
    return frozenset(v for v, depth in enumerate(mixing) if depth <= 1)


class Sweeper:
    """Computes `Layers` for batches of domains of one graph."""

    def __init__(self, backward: Backward, targets: Sequence[int] = ()) -> None:
        self.backward = backward
        self.graph = backward.graph
        self.targets = frozenset(targets)  # nodes to bound fully, whoever reads them
        self.bounded = frozenset(bounded_nodes(self.graph)) | self.targets
        self.exact = exact_by_interval(self.graph)
        self._widest = max(total(n.shape) for n in self.graph.nodes)
        self.panorama = Panorama(backward)
        self._shared: tuple[dict[int, Interval], dict[int, Frame]] = ({}, {})

    def sweep(
        self,
        lower: Tensor,
        upper: Tensor,
        options: SweepOptions,
        known: Mapping[int, Interval] | None = None,
        found: Found | None = None,
    ) -> Layers:
        """Bounds and lines of every layer over the boxes (domains, inputs), at least as tight as `known`."""
        layers = Layers(lower, upper, infeasible=torch.zeros(lower.shape[0], dtype=torch.bool, device=lower.device))
        values: list[Interval | None] = [(lower, upper)]
        tails = Tails(self.graph)
        if 0 in self.bounded:  # a nonlinear operator reads the input itself
            box = (lower, upper)
            if known is not None and 0 in known:
                box = within(box, known[0])
            layers.known[0] = carried(self._settle(box, layers), box)
        for position in range(1, len(self.graph.nodes)):
            node = self.graph.nodes[position]
            if isinstance(node.op, NonlinearOp):
                layers.lines[position] = node.op.lines(*seen(node.op, [layers.known[i] for i in node.inputs]))
            bounds = node_interval(self.graph, position, values)
            if known is not None and position in known:
                bounds = within(bounds, known[position])
            tails.add(position, bounds)
            if position in self.bounded:
                work = replace(options, rows=False) if tails.settled(position) else options
                bounds = carried(self._refine(position, bounds, layers, work, found), bounds)
                layers.known[position] = bounds
            values.append(bounds)
        return layers

    def refined(self, position: int, layers: Layers, options: SweepOptions, found: Found | None = None) -> Interval:
        """Bounds of one node of a sweep, tightened by rows."""
        return self._refine(position, layers.known[position], layers, options, found)

    def _refine(
        self, position: int, bounds: Interval, layers: Layers, options: SweepOptions, found: Found | None
    ) -> Interval:
        low, high = self._settle(bounds, layers)
        if not options.rows or position in self.exact:
            return low, high
        if options.deadline is not None and options.deadline():
            return low, high
        mask = self.undecided(position, layers.known, (low, high)) & ~_per_domain(layers.infeasible, low)
        domain, index = mask.reshape(mask.shape[0], -1).nonzero(as_tuple=True)
        if domain.numel() == 0:
            return low, high
        flat_low, flat_high = low.reshape(low.shape[0], -1).clone(), high.reshape(high.shape[0], -1).clone()
        for here, (lows, highs) in self._batches(position, (domain, index), layers, options, found):
            flat_low[here] = torch.fmax(flat_low[here], lows)
            flat_high[here] = torch.fmin(flat_high[here], highs)
            if options.deadline is not None and options.deadline():
                break
        return self._settle((flat_low.reshape(low.shape), flat_high.reshape(high.shape)), layers)

    def _batches(
        self, position: int, entries: tuple[Tensor, Tensor], layers: Layers, options: SweepOptions, found: Found | None
    ) -> Iterator[tuple[tuple[Tensor, Tensor], Interval]]:
        """Bounds of the named entries of a node, some entries after the other, through windows where that pays."""
        domain, index = entries
        if found is None and self.panorama.worth(position, index):
            given = Given(layers.lower, layers.upper, layers.known, options.step, options.memory, _deadline(options))
            for part, bounds in self.panorama.bounds(position, entries, given):
                yield (domain[part], index[part]), bounds
            return
        size = max(1, options.memory // (2 * self._widest * layers.lower.element_size()))
        begin = 0
        while begin < domain.numel():
            here = (domain[begin : begin + size], index[begin : begin + size])
            try:
                bounds = self._rows(position, here, layers, options, found)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or size == 1:
                    raise
                release(layers.lower.device)
                size = max(1, size // 2)
                continue
            yield here, bounds
            begin += size

    @staticmethod
    def _settle(bounds: Interval, layers: Layers) -> Interval:
        """Mark domains with crossing bounds as infeasible and give them a harmless point interval."""
        low, high = bounds
        crossed = (low > high).reshape(low.shape[0], -1).any(1)
        if bool(crossed.any()):
            layers.infeasible |= crossed
            low, high = torch.minimum(low, high), torch.maximum(low, high)
        return low, high

    def _frames(self, layers: Layers) -> dict[int, Frame]:
        """What operators derive from bounds, shared by all rows of a sweep over a single domain."""
        if layers.lower.shape[0] != 1:
            return {}
        if self._shared[0] is not layers.known:
            self._shared = (layers.known, {})
        return self._shared[1]

    def undecided(self, position: int, known: Mapping[int, Interval], bounds: Interval) -> Tensor:
        """Entries of a node whose tighter bounds would tighten some reader's lines."""
        if position in self.targets:
            return bounds[1] > bounds[0]
        mask = torch.zeros_like(bounds[0], dtype=torch.bool)
        for reader in self.graph.consumers[position]:
            node = self.graph.nodes[reader]
            if not isinstance(node.op, NonlinearOp):
                continue
            pairs = [bounds if i == position else known.get(i) for i in node.inputs]
            if any(p is None for p in pairs):
                mask |= bounds[1] > bounds[0]
                continue
            lowers, uppers = seen(node.op, [p for p in pairs if p])
            for source, part in zip(node.inputs, node.op.undecided(lowers, uppers), strict=True):
                if source == position:
                    mask |= part
        return mask

    def _rows(
        self, position: int, entries: tuple[Tensor, Tensor], layers: Layers, options: SweepOptions, found: Found | None
    ) -> Interval:
        """Lower and upper bounds of the named entries by backward rows."""
        domain, index = entries
        count = domain.numel()
        rows = layers.lower.new_zeros(2 * count, total(self.graph.nodes[position].shape))
        here = torch.arange(count, device=rows.device)
        rows[here, index], rows[here + count, index] = 1.0, -1.0
        rows = rows.reshape(2 * count, *self.graph.nodes[position].shape)
        owners = RowMap.ragged(torch.cat([domain, domain]), layers.lower.shape[0])
        if options.step is not None:
            frames = self._frames(layers)
            problem = RowProblem(position, rows, owners, layers.lower, layers.upper, layers.known, frames=frames)
            best = optimize(problem, self.backward, step=options.step, finished=_deadline(options))
            inputs, value = best.inputs, best.bound
        else:
            inputs = self.backward.run(position, rows, owners, layers.relaxation)
            value = self.backward.concretize(inputs, owners, layers.lower, layers.upper)
        if found is not None:
            found(position, domain, index, inputs)
        return value[:count], -value[count:]


def _deadline(options: SweepOptions) -> Callable[[Tensor], bool] | None:
    if options.deadline is None:
        return None
    over = options.deadline
    return lambda _bound: over()


def _per_domain(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(-1, *(1,) * (like.dim() - 1))


Over = Callable[[], bool]
"""True when time is over."""


def build_backward(graph: Graph, lower: Tensor, upper: Tensor, over: Over | None = None) -> Backward:
    """A backward engine for all sub-boxes of [lower, upper] (inputs,): its rounding charge comes from intervals."""
    return Backward(graph, ranges(graph, lower.unsqueeze(0), upper.unsqueeze(0), over=over))


def ranges(
    graph: Graph, lower: Tensor, upper: Tensor, known: dict[int, Interval] | None = None, over: Over | None = None
) -> list[Interval]:
    """Bounds of every node; where plain intervals leave a function's domain, rows are tried for its inputs.

    Raises `DomainError` when they leave it all the same, or when the rows would take more than `MOST_WORK` or the time.
    """
    known = dict(known or {})
    budget = _Budget(MOST_WORK, over)
    while True:
        try:
            return interval_pass(graph, lower, upper, known)
        except DomainError:
            if not _tighten_failing(graph, (lower, upper), known, budget):
                raise


MOST_WORK = 100_000_000  # entries of nodes that the rows of one call of `ranges` may pass; seconds, on convolutions


@dataclass(slots=True)
class _Budget:
    """What rows may still cost, counted in entries of nodes that they pass; also over when time is."""

    work: int
    over: Over | None = None

    def spent(self) -> bool:
        return self.work <= 0 or (self.over is not None and self.over())

    def options(self, graph: Graph) -> tuple[SweepOptions, Found]:
        """Options of a sweep that ends with the budget, and what has to count its rows."""
        entries = sum(total(n.shape) for n in graph.nodes)

        def count(position: int, domain: Tensor, index: Tensor, rows: InputRows) -> None:
            self.work -= 2 * domain.numel() * entries

        return SweepOptions(deadline=self.spent), count


def _tighten_failing(graph: Graph, box: Interval, known: dict[int, Interval], budget: _Budget) -> bool:
    """Add row bounds of the inputs of the first node whose interval fails; False if they were tried before."""
    values: list[Interval | None] = [box]
    for position in range(1, len(graph.nodes)):
        try:
            low, high = node_interval(graph, position, values)
        except DomainError:
            missing = tuple(i for i in graph.nodes[position].inputs if i not in known)
            if not missing or budget.spent():
                return False
            engine = Backward(Graph(graph.nodes[:position]), [v for v in values if v is not None])
            known.update(_by_rows(engine, box, known, (graph.nodes[position], missing), budget))
            return True
        if position in known:
            low, high = torch.fmax(low, known[position][0]), torch.fmin(high, known[position][1])
        values.append((low, high))
    return False


def _by_rows(
    engine: Backward, box: Interval, known: dict[int, Interval], failing: tuple[Node, Sequence[int]], budget: _Budget
) -> dict[int, Interval]:
    """Bounds of some inputs of a node by backward rows; where that is not enough, of all nodes before them first."""
    node, targets = failing
    sweeper = Sweeper(engine, targets=targets)
    options, count = budget.options(engine.graph)
    layers = sweeper.sweep(*box, replace(options, rows=False), known)
    found = {i: sweeper.refined(i, layers, options, count) for i in targets}
    if not _fails(node, known | found):
        return found
    layers = sweeper.sweep(*box, options, known, count)
    return {i: layers.known[i] for i in targets}


def _fails(node: Node, known: Mapping[int, Interval]) -> bool:
    if not isinstance(node.op, NonlinearOp):
        return True
    try:
        node.op.interval([known[i][0] for i in node.inputs], [known[i][1] for i in node.inputs])
    except DomainError:
        return True
    return False
