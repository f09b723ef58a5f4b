"""The commands and their options. Each command hands over to a module of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verinet.cli.session import EXIT_INTERRUPTED, EXIT_TOOL, Session, emit, guarded

if TYPE_CHECKING:
    from verinet.cluster import RayOptions

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
RayAddress = Annotated[str | None, typer.Option("--ray", metavar="ADDRESS|auto", help="Use an existing Ray cluster.")]
CpusPerTask = Annotated[int, typer.Option("--cpus-per-task", metavar="N", help="Cores of a worker on Ray.")]
GpusPerTask = Annotated[
    float | None, typer.Option("--gpus-per-task", metavar="F", help="GPUs of a worker on Ray; 0.25 shares one by four.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Of all that is drawn at random.")]
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
    files: Annotated[list[str], typer.Argument(metavar="MODEL.onnx SPEC.vnnlib", help="In either order.")],
    network: Annotated[
        list[str] | None, typer.Option("--network", metavar="NAME=FILE", help="A network, as VNN-LIB 2.0 names it.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--serialise-assignments", "--assignments", metavar="DIR", help="Counterexample as ONNX tensors."),
    ] = None,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="SECONDS", help="Limit for the whole process, start-up included.")
    ] = "300",
    device: Device = "auto",
    result: Annotated[
        Path | None, typer.Option("--result", metavar="FILE", help="Write verdict and counterexample to FILE.")
    ] = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    processes: Annotated[
        int | None,
        typer.Option("--processes", metavar="N", min=1, help="That share a long search; default: the cores."),
    ] = None,
    ray: RayAddress = None,
    cpus: CpusPerTask = 1,
    gpus: GpusPerTask = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="On Ray; default: all it holds.")
    ] = None,
    verbose: Verbose = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdict.")] = False,
) -> None:
    """Decide one query. The first line is sat (a violation exists), unsat (none does), unknown or timed-out."""
    from verinet.cli.files import sort_files
    from verinet.cli.finish import Report
    from verinet.cli.verify import Settings, run_verify, seconds

    limit, known = seconds(timeout), _known_device(device)
    with guarded(verbose):
        cluster = _ray_options(ray, cpus, gpus, workers)
        settings = Settings(limit, known, seed, 0 if quiet else verbose, cluster, processes)
        model, spec = sort_files(files, network or ())
        standard = bool(network) and not quiet  # the standard's form of the command prints the counterexample too
        report = Report(model, spec, result, as_json, quiet, standard, folder)
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
def lipschitz(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A network (.onnx) or an implicit one (.npz).")],
    norm: Annotated[str, typer.Option("--norm", metavar="2|inf", help="Of inputs and outputs.")] = "2",
    spec: Annotated[Path | None, typer.Option("--spec", metavar="FILE.vnnlib", help="Region: its input box.")] = None,
    box: Annotated[
        Path | None, typer.Option("--box", metavar="FILE.npz", help="Region: arrays lower and upper.")
    ] = None,
    center: Annotated[
        Path | None, typer.Option("--center", metavar="FILE", help="Region: centre of a ball, .npy or .npz.")
    ] = None,
    radius: Annotated[float | None, typer.Option("--radius", metavar="R", help="Its radius in the 2-norm.")] = None,
    output: Annotated[int | None, typer.Option("--output", metavar="K", help="Only this output, from 0.")] = None,
    method: Annotated[
        str,
        typer.Option("--method", metavar="NAME", help="auto, product, recursion, layer, first-order, neuron or exact."),
    ] = "auto",
    solver: Annotated[
        str, typer.Option("--solver", metavar="NAME", help="auto, verinet, clarabel, scs or mosek.")
    ] = "auto",
    seconds: Annotated[float, typer.Option("--time", metavar="SECONDS", help="For the search.")] = 60.0,
    as_json: AsJson = False,
    seed: Seed = 0,
    verbose: Verbose = 0,
) -> None:
    """Certified Lipschitz bound, everywhere or over a region, with an attained lower bound beside it."""
    from verinet.cli.lipschitz import Question, RegionFiles, run_lipschitz

    with guarded(verbose):
        region = RegionFiles(spec, box, center, radius)
        run_lipschitz(model, region, Question(norm, output, method, solver, seconds, seed), as_json)


@app.command()
def inspect(model: ModelFile, as_json: AsJson = False, verbose: Verbose = 0) -> None:
    """List every operator of a network: bounded, folded into a constant, or not supported."""
    from verinet.cli.describe import run_inspect

    with guarded(verbose):
        code = run_inspect(model, as_json)
    raise typer.Exit(code)


@app.command()
def batch(
    instances: Annotated[Path, typer.Argument(metavar="INSTANCES", help="Rows onnx,vnnlib,timeout; or a folder.")],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder of the run; resumed if it holds one.")],
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", help="Processes at a time.")] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="SECONDS", help="For every instance, instead of the list's.")
    ] = None,
    memory: Annotated[float | None, typer.Option("--memory", metavar="GB", help="Limit of one worker.")] = None,
    shard: Annotated[str | None, typer.Option("--shard", metavar="I/N", help="Part I of N, for job arrays.")] = None,
    device: Device = "auto",
    seed: Seed = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set earlier results aside and start again.")] = False,
    ray: RayAddress = None,
    cpus: CpusPerTask = 1,
    gpus: GpusPerTask = None,
    competition: Annotated[
        Path | None, typer.Option("--competition", metavar="SCRIPTS", help="Run these scripts as the organisers do.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing but errors.")] = False,
) -> None:
    """Answer many instances with warm workers; an interrupted run goes on where it stopped."""
    from verinet.cli.batch import BatchOptions, run_batch, run_competition
    from verinet.cli.verify import seconds

    limit = None if timeout is None else seconds(timeout)
    with guarded(verbose):
        if competition is not None:
            raise typer.Exit(run_competition(instances, out, competition, limit))
        cluster = _ray_options(ray, cpus, gpus)
        options = BatchOptions(workers, limit, memory, shard, _known_device(device), seed, fresh, cluster)
        code = run_batch(instances, out, options, (quiet, as_json))
    raise typer.Exit(code)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `verinet batch` has filled.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="[RUN2]", help="To compare with: a run, or a csv file of other tools.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="One self-contained page.")] = None,
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE|-", help="The competition's columns; - for stdout.")
    ] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", metavar="FILE", help="For pandas and the like.")] = None,
    verbose: Verbose = 0,
) -> None:
    """Show what a batch run found: a table here, or a page, csv or Parquet file."""
    from verinet.cli.report import ReportFiles, run_report

    with guarded(verbose):
        run_report(run, other, ReportFiles(html, csv, parquet))


@app.command()
def convert(
    source: SpecFile,
    target: Annotated[str, typer.Argument(metavar="OUT.vnnlib", help="May end in .gz; - for stdout.")],
    to: Annotated[str, typer.Option("--to", metavar="1|2", help="The version to write; default: the other one.")] = "",
    network: Annotated[
        Path | None, typer.Option("--network", metavar="MODEL.onnx", help="Shapes and types for version 2.")
    ] = None,
    verbose: Verbose = 0,
) -> None:
    """Write a property in another version of VNN-LIB, with exactly the same meaning."""
    from verinet.cli.convert import Conversion, run_convert

    with guarded(verbose):
        run_convert(Conversion(source, target, to, network))


@app.command()
def jacobian(
    model: ModelFile,
    out: Annotated[Path, typer.Option("--out", metavar="DERIVATIVE.onnx", help="The file to write.")],
    inputs: Annotated[str, typer.Option("--inputs", metavar="LIST", help="Such as 0,3-7; default: all.")] = "",
    outputs: Annotated[str, typer.Option("--outputs", metavar="LIST", help="Such as 0,3-7; default: all.")] = "",
    values: Annotated[bool, typer.Option("--values", help="Append the network's own outputs.")] = False,
    verbose: Verbose = 0,
) -> None:
    """Write the derivative of a network as an ONNX network, for queries about its Jacobian."""
    from verinet.cli.jacobian import Entries, run_jacobian

    with guarded(verbose):
        run_jacobian(model, out, Entries(inputs, outputs, values))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def supports(context: typer.Context) -> None:
    """What verinet can do, in the words of the VNN-LIB standard: `--onnx-operators`, `--hidden-node-theories` ..."""
    from verinet.cli.supports import run_supports

    with guarded():
        run_supports(context.args)


@app.command()
def doctor(as_json: AsJson = False, verbose: Verbose = 0) -> None:
    """Versions, device, optional solvers, and a self-test of two seconds."""
    from verinet.cli.doctor import run_doctor

    with guarded(verbose):
        code = run_doctor(as_json)
    raise typer.Exit(code)


def _ray_options(address: str | None, cpus: int, gpus: float | None, workers: int | None = None) -> RayOptions | None:
    if address is None:
        return None
    from verinet.cluster import RayOptions

    return RayOptions(address, cpus, gpus, workers)


def _known_device(device: str) -> str:
    if device not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"the device is auto, cpu or cuda, not '{device}'")
    return device
