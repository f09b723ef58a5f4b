"""The snippets of docs/activations.md run, and its table names what is registered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from verinet.ops.activations import registry

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "activations.md").read_text()


@pytest.fixture
def _restored() -> Iterator[None]:
    before = dict(registry._TABLE)
    yield
    registry._TABLE.clear()
    registry._TABLE.update(before)


@pytest.mark.usefixtures("_restored")
def test_snippets_run() -> None:
    snippets = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(snippets) == 4
    for snippet in snippets:
        exec(compile(snippet, "docs/activations.md", "exec"), {})
    assert {"acme::Bump", "acme::Ripple", "acme::Cubic", "acme::Wave"} <= set(registry.table())


def test_every_registered_name_is_documented() -> None:
    names = set(re.findall(r"[A-Za-z]\w+", TEXT))
    assert not [name for name in registry.table() if "::" not in name and name not in names]
