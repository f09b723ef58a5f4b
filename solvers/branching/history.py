"""What tried splits have really gained, over what their quick scores had promised.

Quick scores are cheap and biased, and the bias of an entry is much the same in all leaves of a tree. So the gains of
the few candidates that are tried by real bounds correct the scores of the same entries in later leaves: pseudo-costs
(Benichou et al. 1971), trusted the more the more often the entry has been tried (Achterberg, Koch and Martin 2005,
"Branching rules revisited").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.branching.candidates import Table
from verinet.solvers.branching.treesize import log_tree_size

TRUST = 2.0  # trials after which an entry's own record weighs as much as that of all entries together
LEAST = 1e-12  # a gain; keeps ratios of nothing to nothing finite


@dataclass(slots=True)
class _Record:
    """Sums over the trials of the entries of one node, (2, entries) each: upper children first."""

    real: Tensor
    quick: Tensor


class History:
    """Real over quick gains of every entry and side that has been tried."""

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}
        self._real = self._quick = self._trials = 0.0

    @property
    def trials(self) -> float:
        """How many children have been tried."""
        return self._trials

    def expected(self, found: Table) -> Tensor:
        """Gains (2, kept, columns) to be expected of the splits of a table, in units of the bound."""
        real, quick = self._of(found)
        if self._quick == 0:
            return found.gains.double().clamp(min=0)
        share, mean = self._real / self._quick, self._quick / self._trials
        factor = (real + TRUST * mean * share) / (quick + TRUST * mean)
        return found.gains.double().clamp(min=0) * factor.unsqueeze(1)

    def ranked(self, found: Table, missing: Tensor) -> Tensor:
        """Scores (kept, columns), positive where a split is possible: the smaller the tree, the higher.

        `missing` (kept,) is the margin that every domain still misses.
        """
        gains = self.expected(found)
        whole = torch.where(torch.isfinite(missing) & (missing > 0), missing, gains.amax((0, 2)) + LEAST)
        whole = whole.unsqueeze(1).expand_as(gains[0])
        # Trees cannot tell negligible gains apart; sums still can.
        score = 1.0 / log_tree_size(gains[0], gains[1], whole) + 1e-9 * (gains.sum(0) / whole).clamp(max=1.0)
        return torch.where(found.score > 0, score, torch.zeros_like(score))

    def learn(self, found: Table, columns: Tensor, real: Tensor) -> None:
        """Take note of gains `real` (2, kept) of one candidate per domain, `columns` (kept,) of the table."""
        here = torch.arange(columns.numel(), device=columns.device)
        quick = found.gains[:, here, columns].double().clamp(min=0)
        use = (found.score[here, columns] > 0) & torch.isfinite(real).all(0) & torch.isfinite(quick).all(0)
        real = real.double().clamp(min=0)
        for node in found.node[columns].unique().tolist():
            mine = (use & (found.node[columns] == node)).nonzero().squeeze(1)
            record = self._record(node, int((found.node == node).sum()), found.node.device)
            entry = found.entry[columns][mine]
            record.real.index_add_(1, entry, real[:, mine])
            record.quick.index_add_(1, entry, quick[:, mine])
        self._real += float(real[:, use].sum())
        self._quick += float(quick[:, use].sum())
        self._trials += 2.0 * int(use.sum())

    def moved(self, device: torch.device) -> History:
        """A copy on a device, to start another search with."""
        other = History()
        other._real, other._quick, other._trials = self._real, self._quick, self._trials
        other._records = {
            node: _Record(r.real.to(device, copy=True), r.quick.to(device, copy=True))
            for node, r in self._records.items()
        }
        return other

    def _of(self, found: Table) -> tuple[Tensor, Tensor]:
        """Real and quick sums (2, columns) of the entries of a table; nothing for those never tried."""
        nodes, counts = found.node.unique_consecutive(return_counts=True)
        records = [self._record(n, c, found.node.device) for n, c in zip(nodes.tolist(), counts.tolist(), strict=True)]
        return torch.cat([r.real for r in records], 1), torch.cat([r.quick for r in records], 1)

    def _record(self, node: int, entries: int, device: torch.device) -> _Record:
        if node not in self._records:
            nothing = torch.zeros(2, entries, dtype=torch.float64, device=device)
            self._records[node] = _Record(nothing, nothing.clone())
        return self._records[node]
