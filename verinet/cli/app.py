"""The commands and their options. Each command hands over to a module of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verinet.cli.session import EXIT_INTERRUPTED, EXIT_TOOL, Session, emit, guarded

app = typer.Typer(
    name="verinet",
    help="Prove what a trained network can and cannot do, or show an input for which it fails.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The network: .onnx or .onnx.gz.")]
SpecFile = Annotated[Path, typer.Argument(metavar="SPEC.vnnlib", help="The property: .vnnlib or .vnnlib.gz.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.", metavar="DEVICE")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="More on stderr; tracebacks of errors.")]


def run(arguments: list[str], started: float) -> int:
    """Run one command line; returns the exit code. `started` is on the clock of `time.monotonic()`."""
    try:
        app(args=arguments, prog_name="verinet", obj=Session(started))
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_TOOL  # typer always ends by SystemExit


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        emit(version("verinet"))
        raise typer.Exit


def _name(wanted: bool) -> None:
    if wanted:
        emit("verinet")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
    name: Annotated[bool, typer.Option("--name", callback=_name, is_eager=True, help="The tool's name.")] = False,
) -> None:
    """Options that need no command."""


@app.command()
def verify(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="MODEL.onnx SPEC.vnnlib", help="In either order.")],
    network: Annotated[
        list[str] | None, typer.Option("--network", metavar="NAME=FILE", help="The network, as VNN-LIB 2.0 names it.")
    ] = None,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="SECONDS", help="Limit for the whole process, start-up included.")
    ] = "300",
    device: Device = "auto",
    result: Annotated[
        Path | None, typer.Option("--result", metavar="FILE", help="Write verdict and counterexample to FILE.")
    ] = None,
    as_json: AsJson = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the random searches.")] = 0,
    verbose: Verbose = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdict.")] = False,
) -> None:
    """Decide one query. The first line is sat (a violation exists), unsat (none does), unknown or timed-out."""
    from verinet.cli.files import sort_files
    from verinet.cli.finish import Report
    from verinet.cli.verify import Settings, run_verify, seconds

    settings = Settings(seconds(timeout), _known_device(device), seed, 0 if quiet else verbose)
    with guarded(verbose):
        model, spec = sort_files(files, network or ())
        report = Report(model, spec, result, as_json, quiet)
    raise typer.Exit(run_verify(report, settings, context.obj))


@app.command()
def bounds(
    model: ModelFile,
    spec: SpecFile,
    layer: Annotated[str | None, typer.Option("--layer", metavar="NAME", help="A layer; default: the output.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = 0,
) -> None:
    """Certified lower and upper bounds of a layer over the input region of a property."""
    from verinet.cli.describe import run_bounds
    from verinet.cli.files import sort_files

    with guarded(verbose):
        run_bounds(sort_files([model, spec], ()), layer, _known_device(device), as_json)


@app.command()
def inspect(model: ModelFile, as_json: AsJson = False, verbose: Verbose = 0) -> None:
    """List every operator of a network: bounded, folded into a constant, or not supported."""
    from verinet.cli.describe import run_inspect

    with guarded(verbose):
        code = run_inspect(model, as_json)
    raise typer.Exit(code)


@app.command()
def doctor(as_json: AsJson = False, verbose: Verbose = 0) -> None:
    """Versions, device, optional solvers, and a self-test of two seconds."""
    from verinet.cli.doctor import run_doctor

    with guarded(verbose):
        code = run_doctor(as_json)
    raise typer.Exit(code)


def _known_device(device: str) -> str:
    if device not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"the device is auto, cpu or cuda, not '{device}'")
    return device
