"""Records of what tried splits gained, and when the optimisation of a batch ends."""

from __future__ import annotations

import torch
from torch import Tensor
from verinet.solvers.branching.candidates import Table
from verinet.solvers.branching.history import TRUST, History
from verinet.solvers.branching.stalled import WINDOW, WORTHWHILE, Stalled

ENTRIES = 3


def table(upper: list[float], lower: list[float], domains: int = 1) -> Table:
    """Three entries of node 4 and as many of node 7; a split is possible where any gain is positive."""
    gains = torch.tensor([upper, lower]).unsqueeze(1).expand(2, domains, -1)
    node = torch.tensor([4, 7]).repeat_interleave(ENTRIES)
    entry = torch.arange(ENTRIES).repeat(2)
    zero = torch.zeros_like(gains[0])
    return Table(node, entry, torch.zeros_like(node), (gains.amax(0) > 0).float(), zero, zero, gains)


def gains(*values: float) -> Tensor:
    return torch.tensor(values).double().reshape(2, -1)


def test_without_trials_the_quick_gains_are_expected() -> None:
    found = table([1, 2, 3, 4, 5, -6], [6, 5, 4, 3, 2, 1])
    assert torch.equal(History().expected(found), found.gains.double().clamp(min=0))


def test_one_entry_s_trials_correct_that_entry_most() -> None:
    found, history = table([1] * 6, [1] * 6), History()
    history.learn(found, torch.tensor([1]), gains(4.0, 2.0))
    up, down = history.expected(found)[:, 0]
    # Real over quick of all trials is 6 / 2; the entry itself has 4 and 2 on its two sides.
    assert torch.allclose(up[[0, 2, 3, 4, 5]], torch.tensor(3.0).double())
    assert abs(float(up[1]) - (4 + TRUST * 3) / (1 + TRUST)) < 1e-12
    assert abs(float(down[1]) - (2 + TRUST * 3) / (1 + TRUST)) < 1e-12


def test_many_trials_overrule_the_quick_score() -> None:
    found, history = table([1, 10, 1, 1, 1, 1], [1, 10, 1, 1, 1, 1]), History()
    missing = torch.tensor([100.0]).double()
    assert int(history.ranked(found, missing).argmax()) == 1
    for _ in range(50):
        history.learn(found, torch.tensor([1]), gains(0.1, 0.1))
        history.learn(found, torch.tensor([5]), gains(2.0, 2.0))
    assert int(history.ranked(found, missing).argmax()) == 5


def test_entries_are_known_by_node_and_entry_not_by_column() -> None:
    history = History()
    history.learn(table([1] * 6, [1] * 6), torch.tensor([4]), gains(9.0, 9.0))
    history.learn(table([1] * 6, [1] * 6), torch.tensor([0]), gains(1.0, 1.0))
    narrow = table([1] * 6, [1] * 6)
    only = Table(
        *(getattr(narrow, f)[ENTRIES:] for f in ("node", "entry", "kind")),
        *(getattr(narrow, f)[:, ENTRIES:] for f in ("score", "point", "strict")),
        narrow.gains[..., ENTRIES:],
    )
    expected = history.expected(only)[0, 0]
    assert expected.argmax() == 1 and expected.numel() == ENTRIES


def test_useless_and_infinite_trials_teach_nothing() -> None:
    found, history = table([0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]), History()
    before = history.expected(found)
    history.learn(found, torch.tensor([0]), gains(5.0, 5.0))
    history.learn(found, torch.tensor([2]), gains(torch.inf, 5.0))
    history.learn(found, torch.tensor([3]), gains(torch.nan, 5.0))
    assert torch.equal(history.expected(found), before)
    ranks = history.ranked(found, torch.tensor([torch.inf]).double())
    assert ranks[0, 0] == 0 and (ranks[0, 1:] > 0).all() and torch.isfinite(ranks).all()
    assert torch.isfinite(history.ranked(found, torch.tensor([torch.nan]).double())).all()


def test_a_balanced_pair_leads_to_a_smaller_tree_than_a_one_sided_one() -> None:
    found = table([0.5, 3.0, 0.0, 0, 0, 0], [0.5, 0.0, 3.0, 0, 0, 0])
    assert int(History().ranked(found, torch.tensor([1.0]).double()).argmax()) == 0


def test_a_batch_stalls_when_its_open_domains_hardly_gain() -> None:
    stalled = Stalled()
    margin = torch.tensor([-1.0, -1.0, 5.0])
    assert not any(stalled(margin) for _ in range(WINDOW))
    assert stalled(margin)
    margin = margin + torch.tensor([3 * WORTHWHILE, 0.0, 0.0])
    # One step that gains counts for as many as look back to before it.
    assert [stalled(margin) for _ in range(WINDOW + 1)] == [False] * WINDOW + [True]
    assert stalled(margin + torch.tensor([WORTHWHILE, WORTHWHILE / 2, 0.0]))


def test_closed_and_undefined_margins_never_stall_a_batch_that_gains() -> None:
    stalled = Stalled()
    assert not any(stalled(torch.tensor([1.0, 2.0])) for _ in range(2 * WINDOW))
    stalled = Stalled()
    assert not any(stalled(torch.tensor([torch.nan, -1.0 + 0.2 * k])) for k in range(5))
