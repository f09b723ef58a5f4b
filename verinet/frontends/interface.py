"""Networks and the declarations of a VNN-LIB 2.0 query: which file belongs to which name, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verinet.errors import PropertyError
from verinet.frontends.model import Model
from verinet.frontends.rework import with_outputs, with_sizes
from verinet.ir.graph import Shape, total
from verinet.spec.property import Network2, Query2, Variable2

Ints = npt.NDArray[np.int64]

_NARROWEST_FIRST = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Fitted:
    """A network that fits its declaration. See `compose.Part` for the fields of the same name.

    `dtypes` are (size, element type) of its inputs: the narrower one of the declared type and the file's.
    """

    original: Model
    reading: Model
    order: Ints
    dtypes: tuple[tuple[int, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Reading:
    """A file as it is, and with hidden tensors as outputs; `tensors` holds what their ONNX names stand for."""

    original: Model
    extended: Model
    tensors: Mapping[str, str]

    def spans(self) -> Iterator[tuple[int, Shape, Any]]:
        """(first flat position, shape, dtype) of every output."""
        first = 0
        for shape, dtype in zip(self.extended.output_shapes, self.extended.output_dtypes, strict=True):
            yield first, shape, dtype
            first += total(shape)

    def hidden(self, variable: Variable2) -> int:
        """The output that a hidden variable is."""
        return self.extended.output_names.index(self.tensors[variable.node])


def fitted(query: Query2, networks: Model | Mapping[str, Model], where: str) -> list[Fitted]:
    """The networks of a query in order of declaration. Raises PropertyError, ModelError."""
    models = _assigned(query, networks, where)
    hidden = _hidden_names(query, models)
    readings: dict[int, _Reading] = {}
    found: list[Fitted] = []
    for network in query.networks:
        given = models[network.name]
        if id(given) not in readings:
            sized = _sized(given, network, where)
            names = hidden[id(given)]
            readings[id(given)] = _Reading(sized, *(with_outputs(sized, names) if names else (sized, {})))
        found.append(_fit(network, readings[id(given)], where))
    return found


def _assigned(query: Query2, networks: Model | Mapping[str, Model], where: str) -> dict[str, Model]:
    """The network behind each name; equal networks share theirs."""
    needed = [n.name for n in query.networks if n.relation != "equal-to"]
    if isinstance(networks, Model) or (len(networks) == 1 and len(needed) == 1):
        if len(needed) > 1:
            raise PropertyError(
                f"one network was given, but the query needs {len(needed)}: {', '.join(needed)}",
                where=where,
                hint=" ".join(f"--network {name}=FILE" for name in needed),
            )
        model = networks if isinstance(networks, Model) else next(iter(networks.values()))
        return {n.name: model for n in query.networks}
    unknown = [name for name in networks if name not in {n.name for n in query.networks}]
    missing = [name for name in needed if name not in networks]
    if unknown or missing:
        fact = f"the query declares no network {unknown[0]}" if unknown else f"no file is given for {missing[0]}"
        raise PropertyError(fact, where=where, hint=f"it needs {' '.join(f'--network {name}=FILE' for name in needed)}")
    models = {name: networks[name] for name in needed}
    for network in query.networks:
        if network.relation == "equal-to":
            models[network.name] = models[network.target]
            if network.name in networks and networks[network.name].sha256 != models[network.target].sha256:
                raise PropertyError(
                    f"{network.name} is declared equal to {network.target}, but their files differ", where=where
                )
    return models


def _hidden_names(query: Query2, models: Mapping[str, Model]) -> dict[int, list[str]]:
    """The ONNX names that hidden variables stand for, for each file."""
    found: dict[int, dict[str, None]] = {id(model): {} for model in models.values()}
    for network in query.networks:
        found[id(models[network.name])].update((v.node, None) for v in network.of_role("hidden"))
    return {key: list(names) for key, names in found.items()}


def _sized(model: Model, network: Network2, where: str) -> Model:
    """The network at the sizes of the declaration, where its file leaves sizes open."""
    declared = [v.shape for v in network.of_role("input")]
    if len(declared) != len(model.input_shapes):
        raise _count(network, "input", len(declared), len(model.input_shapes), where)
    if [total(s) for s in declared] == [total(s) for s in model.input_shapes]:
        return model
    return with_sizes(model, declared)


def _fit(network: Network2, reading: _Reading, where: str) -> Fitted:
    original, notes = reading.original, list[str]()
    inputs, outputs = network.of_role("input"), network.of_role("output")
    if len(outputs) != len(original.output_shapes):
        raise _count(network, "output", len(outputs), len(original.output_shapes), where)
    own = list(zip(inputs, original.input_shapes, original.input_dtypes, strict=True))
    own += zip(outputs, original.output_shapes, original.output_dtypes, strict=True)
    spans = list(reading.spans())
    own += [(variable, *spans[reading.hidden(variable)][1:]) for variable in network.of_role("hidden")]
    for variable, shape, dtype in own:
        _check_shape(network, variable, shape, where, notes)
        _check_type(network, variable, np.dtype(dtype), where, notes)
    dtypes = [(v.size, _narrower(v.dtype, np.dtype(d).name)) for v, _, d in own[: len(inputs)]]
    return Fitted(original, reading.extended, _order(network, reading, spans), tuple(dtypes), tuple(notes))


def _order(network: Network2, reading: _Reading, spans: Sequence[tuple[int, Shape, Any]]) -> Ints:
    """Positions of hidden and output entries, in order of declaration, in the flat outputs of the extended network."""
    pieces: list[Ints] = []
    outputs = 0
    for variable in network.variables:
        if variable.is_input:
            continue
        position = outputs if variable.role == "output" else reading.hidden(variable)
        outputs += variable.role == "output"
        first = spans[position][0]
        pieces.append(np.arange(first, first + variable.size, dtype=np.int64))
    return np.concatenate(pieces)


def _count(network: Network2, what: str, declared: int, found: int, where: str) -> PropertyError:
    return PropertyError(
        f"{network.name} declares {declared} {what}{'s' if declared != 1 else ''}, but its file has {found}",
        where=where,
        hint="all inputs and outputs of the file are declared, in its order",
    )


def _check_shape(network: Network2, variable: Variable2, shape: Shape, where: str, notes: list[str]) -> None:
    if variable.shape == tuple(shape):
        return
    if variable.size != total(shape):
        raise PropertyError(
            f"{variable.name} is declared with shape {list(variable.shape)}, but the file has {list(shape)}",
            where=f"network {network.name} of {where}",
            hint="check that query and network belong together",
        )
    notes.append(
        f"{variable.name} is declared with shape {list(variable.shape)}, the file has {list(shape)}: "
        "entries are matched in row-major order; other tools may reject this"
    )


def _check_type(network: Network2, variable: Variable2, dtype: np.dtype[Any], where: str, notes: list[str]) -> None:
    """By the standard, types match unless the query says `real`; isomorphic networks may differ in theirs."""
    if variable.dtype in ("real", "Real") or variable.dtype == dtype.name:
        return
    both_float = variable.dtype in _NARROWEST_FIRST and dtype.name in _NARROWEST_FIRST
    if network.relation == "isomorphic-to" and both_float:
        notes.append(
            f"{variable.name} is declared {variable.dtype}, its file holds {dtype.name}: proofs are about the function "
            "over real numbers, witnesses are numbers of both types"
        )
        return
    raise PropertyError(
        f"{variable.name} is declared {variable.dtype}, but the file has {dtype.name}",
        where=f"network {network.name} of {where}",
        hint=f"declare it {dtype.name}, or real",
    )


def _narrower(declared: str, found: str) -> str:
    if declared in _NARROWEST_FIRST and found in _NARROWEST_FIRST:
        return min(declared, found, key=_NARROWEST_FIRST.index)
    return found
