"""From a graph to what the menu of methods works on: form, chain and norm product, as far as they exist."""

from __future__ import annotations

import math
from collections.abc import Callable

from verinet.solvers.lipschitz.chain import extract_chain
from verinet.solvers.lipschitz.exponents import Norm
from verinet.solvers.lipschitz.extract import extract_form
from verinet.solvers.lipschitz.menu import FORM_LIMIT, Subject
from verinet.solvers.lipschitz.product import norm_product
from verinet.solvers.lipschitz.ranges import Ranges

from verinet.ir.graph import Graph, total
from verinet.ops.base import NonlinearOp

CHAIN_FORM = 4_000
"""Channels and inputs up to which a feed-forward network gets a form as well."""
LAYERED = ("product", "recursion", "layer")


def network_subject(graph: Graph, ranges: Ranges | None, norm: Norm, method: str) -> Subject:
    """Form, chain and product of a float64 graph; what is too large, does not exist or is not needed is left out."""
    chain = extract_chain(graph, ranges=ranges) if norm == 2 and method != "product" else None
    limit = FORM_LIMIT if chain is None else CHAIN_FORM
    wanted = method not in LAYERED and size_of(graph) <= limit
    form = extract_form(graph, ranges=ranges) if wanted else None
    return Subject(form, chain, _product(graph, ranges, norm) if norm in (2, math.inf) else None)


def size_of(graph: Graph) -> int:
    """At least the number of entries that go through nonlinear nodes, plus the inputs."""
    channels = sum(total(n.shape) for n in graph.nodes if isinstance(n.op, NonlinearOp))
    return channels + graph.input_size


def _product(graph: Graph, ranges: Ranges | None, norm: Norm) -> Callable[[], float]:
    return lambda: norm_product(graph, "2" if norm == 2 else "inf", ranges=ranges)
