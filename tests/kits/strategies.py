"""Hypothesis strategies that tests of enclosure share: number types, boxes, multipliers, seeds."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

DTYPES = st.sampled_from([torch.float64, torch.float32])
SEEDS = st.integers(0, 10_000)
KINDS = st.sampled_from(["none", "default", "random", "projected"])
"""Of multipliers; see `tests.unit.ops_bilinear.enclosure.multipliers`."""

CENTRES = st.one_of(st.floats(-6, 6, width=32), st.sampled_from([0.0, 1.0, -1.0, 0.1, 1e-20, -1e6, 3e9]))
RADII = st.one_of(st.floats(0, 4, width=32), st.sampled_from([0.0, 1e-300, 1e-30, 1e-12, 1e-7, 1e-3, 1e5]))
"""Half widths of single entries around `CENTRES`."""

LOGIT_RADII = st.sampled_from([0.0, 1e-30, 1e-7, 1e-3, 0.1, 1.0, 8.0, 60.0])
LOGIT_SCALES = st.sampled_from([0.1, 1.0, 10.0])
"""Boxes of logits: half widths, and sizes of the centres."""
