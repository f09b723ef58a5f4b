"""Some domains of a batch of rows alone: those that are closed already need no further steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verinet.propagation.backward import InputRows, SplitRows, Trace
from verinet.propagation.ends import picked
from verinet.propagation.optimize import Multipliers, Optimized, RowProblem
from verinet.propagation.rows import RowMap, rows_of


@dataclass(frozen=True, slots=True)
class Narrow:
    """The rows of some domains of a problem with the same number of rows in every domain."""

    whole: RowProblem
    problem: RowProblem  # of those domains alone
    rows: Tensor  # positions of its rows in the whole
    mine: Tensor  # (rows of the whole,) which they are

    @classmethod
    def of(cls, whole: RowProblem, domains: Tensor) -> Narrow:
        """`domains` are ascending positions. ValueError where the row map is not regular."""
        per = whole.owners.per_domain
        if per is None:
            raise ValueError("every domain must have the same number of rows")
        rows = rows_of(domains, per)
        place = torch.full((whole.owners.count,), -1, dtype=torch.int64, device=domains.device)
        place[rows] = torch.arange(rows.numel(), device=domains.device)
        problem = RowProblem(
            whole.start,
            whole.rows[rows],
            RowMap.regular(int(domains.numel()), per, domains.device),
            whole.lower[domains],
            whole.upper[domains],
            {v: picked(pair, domains) for v, pair in whole.known.items()},
            {v: _some(split, place) for v, split in whole.splits.items()},
        )
        return cls(whole, problem, rows, place >= 0)

    def multipliers(self, multipliers: Multipliers) -> Multipliers:
        """Those of these rows."""
        return {v: tuple(t[self.rows] for t in values) for v, values in multipliers.items()}

    def betas(self, betas: dict[int, Tensor]) -> dict[int, Tensor]:
        """Those of these rows."""
        return {v: beta[self.mine[self.whole.splits[v].row]] for v, beta in betas.items()}

    def part(self, state: Optimized) -> Optimized:
        """What a pass over the whole found for these rows, without its lines."""
        inputs = InputRows(state.inputs.coefficients[self.rows], state.inputs.constant[self.rows])
        trace = Trace({v: r[self.rows] for v, r in state.trace.rows.items()})
        multipliers, betas = self.multipliers(state.multipliers), self.betas(state.betas)
        return Optimized(state.bound[self.rows], inputs, multipliers, betas, trace)

    def put(self, state: Optimized, found: Optimized) -> Optimized:
        """`state` of the whole with what was `found` for these rows; without lines and the rows met on the way."""
        betas = {
            v: beta.masked_scatter(self.mine[self.whole.splits[v].row], found.betas[v])
            for v, beta in state.betas.items()
        }
        multipliers = {
            v: tuple(self._put(old, new) for old, new in zip(values, found.multipliers[v], strict=True))
            for v, values in state.multipliers.items()
        }
        inputs = InputRows(
            self._put(state.inputs.coefficients, found.inputs.coefficients),
            self._put(state.inputs.constant, found.inputs.constant),
        )
        return Optimized(self._put(state.bound, found.bound), inputs, multipliers, betas, Trace())

    def _put(self, old: Tensor, new: Tensor) -> Tensor:
        return old.index_copy(0, self.rows, new)


def _some(split: SplitRows, place: Tensor) -> SplitRows:
    row = place[split.row]
    mine = row >= 0
    return SplitRows(row[mine], split.index[mine], split.sign[mine], split.point[mine], split.beta[mine])
