"""`verinet lipschitz`: read the region, ask, print."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verinet.cli.session import emit, emit_json
from verinet.errors import UsageError

if TYPE_CHECKING:
    from verinet.results import LipschitzBound

PEOPLE_LAYERS = 12  # lines of the table of layers before it is cut short


@dataclass(frozen=True, slots=True)
class RegionFiles:
    """Where the region comes from; at most one of property, box and ball."""

    spec: Path | None
    box: Path | None
    center: Path | None
    radius: float | None


@dataclass(frozen=True, slots=True)
class Question:
    """The options of the command."""

    norm: str
    output: int | None
    method: str
    solver: str
    seconds: float
    seed: int


def run_lipschitz(model: Path, files: RegionFiles, question: Question, as_json: bool) -> None:
    """Print the bound: one JSON object, or `upper`, `lower` and how they were found."""
    if not model.is_file():
        raise UsageError("there is no such file", where=str(model))
    from verinet.api_lipschitz import lipschitz

    bound = lipschitz(
        model,
        norm=question.norm,
        region=_region(files),
        output=question.output,
        method=question.method,
        solver=question.solver,
        timeout=question.seconds,
        seed=question.seed,
    )
    if as_json:
        emit_json(bound.to_dict())
    else:
        _print(bound)


def _region(files: RegionFiles) -> Any:
    given = [name for name in ("spec", "box", "center") if getattr(files, name) is not None]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} both give a region", hint="keep one of them")
    if (files.center is None) != (files.radius is None):
        raise UsageError("a ball needs both --center FILE and --radius R", hint="give both, or neither")
    if files.spec is not None:
        return str(files.spec)
    if files.box is not None:
        from verinet.spec.regions import box

        arrays = _arrays(files.box)
        missing = [name for name in ("lower", "upper") if name not in arrays]
        if missing:
            raise UsageError(
                f"the file lacks {' and '.join(missing)}",
                where=str(files.box),
                hint="store arrays lower and upper with numpy.savez",
            )
        return box(arrays["lower"], arrays["upper"])
    if files.center is not None and files.radius is not None:
        from verinet.api_lipschitz import Ball

        arrays = _arrays(files.center)
        name = "center" if "center" in arrays else next(iter(arrays), None)
        if name is None:
            raise UsageError("the file holds no array", where=str(files.center))
        return Ball(arrays[name], files.radius)
    return None


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file, or the one of an .npy file under the name `center`."""
    import numpy as np

    if not path.is_file():
        raise UsageError("there is no such file", where=str(path))
    try:
        loaded = np.load(path, allow_pickle=False)
        stored = {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else {"center": loaded}
    except Exception as error:  # zipfile reports damage with its own types
        raise UsageError("not a file of plain NumPy arrays", where=str(path), hint=str(error)) from error
    for name, array in stored.items():
        if array.dtype.kind not in "fiu":
            raise UsageError(f"the array {name} holds no numbers", where=str(path))
    return {name: array.astype(np.float64).reshape(-1) for name, array in stored.items()}


def _no_gap(bound: LipschitzBound) -> str:
    return "no lower bound" if bound.upper < float("inf") else "no Lipschitz constant is finite"


def _print(bound: LipschitzBound) -> None:
    from rich.console import Console
    from rich.table import Table

    emit(f"upper {bound.upper!r}")
    emit(f"lower {bound.lower!r}")
    if bound.jump is not None:
        nodes = ", ".join(bound.jump.where)
        emit(f"jumps ||f(x) - f(y)|| <= {bound.jump.slope!r} ||x - y|| + {bound.jump.height:.3g}, at {nodes}")
    gap = f"{100 * bound.gap:.3g} % above the lower bound" if bound.gap < float("inf") else _no_gap(bound)
    emit(f"{bound.norm}-norm, {bound.region}; {bound.method}, {gap}; {bound.seconds:.2f} s")
    if bound.contraction is not None:
        emit(f"well posed: a norm of {bound.contraction:.6g}, below 1, proves that the equation has one solution")
    console = Console(stderr=True)
    tried = Table("method", "certified upper bound", "seconds", title="tried")
    for method, upper, seconds in bound.candidates:
        tried.add_row(method, f"{upper:.9g}", f"{seconds:.2f}")
    console.print(tried)
    if not bound.layers:
        return
    layers = Table("layer", "blocks", "multipliers", title="layers")
    for layer in bound.layers[:PEOPLE_LAYERS]:
        layers.add_row(layer.name, str(layer.blocks), f"{layer.smallest:.3g} .. {layer.largest:.3g}")
    if len(bound.layers) > PEOPLE_LAYERS:
        layers.add_row(f"and {len(bound.layers) - PEOPLE_LAYERS} more", "", "")
    console.print(layers)
