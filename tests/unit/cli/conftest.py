"""A stand-in for the engine, so that the command line is tested by itself."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import verinet
from verinet.results import Bounds, Reason, Status, Verdict, Witness

Run = Callable[..., Any]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the fake engine answers (`verdict` or `error`), and with which arguments it was called (`calls`)."""
    state = SimpleNamespace(verdict=Verdict(Status.UNSAT, Reason.PROVED, gap=0.0), error=None, calls=[])

    def verify(model: str, spec: str, **options: Any) -> Verdict:
        state.calls.append((model, spec, options))
        if state.error is not None:
            raise state.error
        return state.verdict

    def bounds(model: str, region: str, **options: Any) -> Bounds:
        state.calls.append((model, region, options))
        return Bounds(options["layer"] or "output", np.array([-1.0, 0.1]), np.array([0.0, 2.5]), "fake", 0.0)

    fake = ModuleType("verinet.api")
    fake.verify, fake.bounds = verify, bounds  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "verinet.api", fake)
    monkeypatch.setattr(verinet, "api", fake, raising=False)
    return state


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Paths of a network and a property with the usual suffixes."""
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07")
    (tmp_path / "spec.vnnlib").write_text("; nothing\n(assert (>= X_0 0.0))\n")
    return str(tmp_path / "net.onnx"), str(tmp_path / "spec.vnnlib")


@pytest.fixture
def command() -> Run:
    """Run a command line in this process; the result has exit_code, stdout and stderr."""
    import time

    from verinet.cli.app import app
    from verinet.cli.session import Session

    return lambda *arguments: CliRunner().invoke(
        app, [str(a) for a in arguments], obj=Session(time.monotonic(), owns_process=False)
    )


@pytest.fixture
def launch() -> Callable[..., subprocess.Popen[str]]:
    """Start the real entry point in a process of its own, with `body` as the body of the fake `verify`."""

    def start(body: str, *arguments: str) -> subprocess.Popen[str]:
        script = "\n".join(
            [
                "import sys, time, types, verinet",
                "from verinet.results import *",
                "def verify(model, spec, *, timeout, progress, stop, started, **rest):",
                textwrap.indent(textwrap.dedent(body), "    "),
                "fake = types.ModuleType('verinet.api'); fake.verify = verify",
                "sys.modules['verinet.api'] = verinet.api = fake",
                f"sys.argv = {['verinet', *arguments]!r}",
                "from verinet.cli import main",
                "main()",
            ]
        )
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", script], **streams)  # type: ignore[call-overload, no-any-return]

    return start


@pytest.fixture
def sat() -> Verdict:
    """A violation with values that are hard to print."""
    inputs = np.array([np.float32(0.1), -0.0, 1e-40], dtype=np.float64)
    return Verdict(Status.SAT, Reason.REPLAYED, Witness(inputs, np.array([1 / 3, 2.5e10]), 0.25))
