"""Trace, analyse, rewrite, tap. The core knows JAX; it knows no method and no model."""

from typing import TYPE_CHECKING

from jaxplain.core.lazy import import_when_asked

if TYPE_CHECKING:
    from jaxplain.core.errors import (
        UnknownLayerError,
        UnsuitableNetworkError,
        UnsupportedOperationError,
        nearest,
    )
    from jaxplain.core.graph import Graph
    from jaxplain.core.layer_table import Layer
    from jaxplain.core.model import Model
    from jaxplain.core.operations import KINDS, Operation
    from jaxplain.core.rule_sets import RuleSet
    from jaxplain.core.rules import BoundOp, Rule, pass_rule
    from jaxplain.core.table import Table
    from jaxplain.core.trace import tag, trace
    from jaxplain.core.transforms import Coverage, capture, coverage, layers, split, with_rules

__all__ = [
    "KINDS",
    "BoundOp",
    "Coverage",
    "Graph",
    "Layer",
    "Model",
    "Operation",
    "Rule",
    "RuleSet",
    "Table",
    "UnknownLayerError",
    "UnsuitableNetworkError",
    "UnsupportedOperationError",
    "capture",
    "coverage",
    "layers",
    "nearest",
    "pass_rule",
    "split",
    "tag",
    "trace",
    "with_rules",
]

#: Module -> what it has. Imported when first asked for, for ``jaxplain --help`` needs no JAX.
_PLACES = {
    "errors": (
        "UnknownLayerError",
        "UnsuitableNetworkError",
        "UnsupportedOperationError",
        "nearest",
    ),
    "graph": ("Graph",),
    "layer_table": ("Layer",),
    "model": ("Model",),
    "operations": (
        "KINDS",
        "Operation",
    ),
    "rule_sets": ("RuleSet",),
    "rules": (
        "BoundOp",
        "Rule",
        "pass_rule",
    ),
    "table": ("Table",),
    "trace": (
        "tag",
        "trace",
    ),
    "transforms": (
        "Coverage",
        "capture",
        "coverage",
        "layers",
        "split",
        "with_rules",
    ),
}
import_when_asked(__name__, {name: file for file, names in _PLACES.items() for name in names})
