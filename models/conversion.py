"""Files of weights to what a network of the registry takes, with the network's description."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain import weights_convert as wc
from jaxplain.models.config import ModelConfig
from jaxplain.models.entries import ENTRIES, find
from jaxplain.models.entry import Entry, Hub, Package, Source
from jaxplain.models.network import Network
from jaxplain.models.recognition import recognise
from jaxplain.weights_convert.safetensors_file import read_metadata


@dataclasses.dataclass(frozen=True)
class Converted:
    """The weights of a file as a network of the registry takes them.

    Attributes:
        weights: our parameter name -> array.
        config: of the network with these weights.
        report: what was done.
        description: what ``config.json`` says.
    """

    weights: Mapping[str, np.ndarray]
    config: ModelConfig
    report: wc.Report
    description: Mapping[str, Any]


def convert_file(
    path: str | os.PathLike[str],
    network: str | None,
    *,
    source: str | None = None,
    class_names: Sequence[str] | int | None = None,
    origin: Package | Hub | None = None,
) -> Converted:
    """Converts a file of weights for a network of the registry.

    Args:
        path: a file of any format that a reader knows.
        network: a name of ``list_models()``; None for the one that the tensors fit.
        source: whose names the tensors have, of the entry's sources; by default the best fit.
        class_names: names of the classes, one each logit, or their number; by default the
            network's own.
        origin: where the file was fetched, if it was.

    Raises:
        ValueError: there is no such network or source.
        weights_convert.CheckpointError: the file cannot be read or does not fit.
    """
    path = Path(path)
    if network is not None:
        find(network)
    sha256 = wc.check_name_hash(path)
    outputs = class_names if isinstance(class_names, int) else len(class_names or ())
    if isinstance(class_names, int):
        class_names = ()
    own = _own_config(path, network)
    if own is not None:
        network, beside = own.name, None
    else:
        beside = _beside(path, network)
    tensors = wc.read(path)
    if beside is not None:
        tensors = tensors | wc.read(beside)
        sha256 = hashlib.sha256(f"{sha256}{wc.file_sha256(beside)}".encode()).hexdigest()
    if network is None:
        try:
            network = recognise(tensors, outputs or None)
        except wc.ConversionError as error:
            raise wc.ConversionError(f"{path}: {error}") from None
    entry = find(network)
    if class_names is None:
        class_names = own.class_names if own else class_names_of(entry)
    outputs = outputs or len(class_names) or (own.outputs if own else entry.outputs)
    maps = {s.names.source: s for s in entry.sources}
    if source is None:
        names = wc.match(tensors, build(entry, outputs), [s.names for s in entry.sources])
    elif source in maps:
        names = maps[source].names
    else:
        raise ValueError(f"{network} has no source {source!r}; it has {', '.join(maps)}.")
    weights, report = wc.convert(tensors, build(entry, outputs, names.source), names)
    found = maps.get(names.source)
    config = own or _config(entry, found or entry.sources[0], origin)
    config = dataclasses.replace(config, class_names=tuple(class_names), outputs=outputs)
    description = {
        "network": network,
        "source": path.name if beside is None else f"{path.name}, {beside.name}",
        "source_sha256": sha256,
        "origin": None if origin is None else str(origin),
        "report": str(report).splitlines(),
        "config": config.to_json(),
    }
    return Converted(weights, config, report, description)


def _beside(path: Path, network: str | None) -> Path | None:
    """The second file of a network whose tensors are in two; None where there is none.

    Raises:
        weights_convert.CheckpointError: ``network`` needs one.
    """
    names, needed = names_beside(path.name, network)
    found = [path.with_name(name) for name in names if path.with_name(name).is_file()]
    if needed and not found:
        raise wc.CheckpointError(
            f"{network} has its tensors in two files: beside {path} there must be "
            f"{' or '.join(names)}."
        )
    return found[0] if found else None


def names_beside(name: str, network: str | None) -> tuple[list[str], bool]:
    """What a second file of weights may be called, and whether ``network`` needs one."""
    entries = ENTRIES.values() if network is None else [find(network)]
    endings = {s.beside for entry in entries for s in entry.sources}
    stem, suffix = os.path.splitext(name)
    names = [f"{stem}{ending}{suffix}" for ending in endings if ending is not None]
    return names, network is not None and bool(names) and None not in endings


def cache_folder(converted: Converted) -> Path:
    """Where converted weights are kept, so that the network's name finds them."""
    about = converted.description
    return wc.cache_dir() / f"{about['network']}-{about['source_sha256'][:12]}"


def _config(entry: Entry, source: Source, origin: Package | Hub | None) -> ModelConfig:
    changes = dict(source.changes) | {"source": source.names.source}
    if origin is not None and origin == source.weights:  # what is published is of these only
        changes |= {"top1": source.top1, "licence": source.licence}
    return dataclasses.replace(entry.config, **changes)


def _own_config(path: Path, network: str | None) -> ModelConfig | None:
    """The description in a file that ``jaxplain convert --to safetensors`` wrote.

    It must be of ``network``, if that is given.
    """
    if path.suffix != ".safetensors":
        return None
    text = read_metadata(path).get("jaxplain")
    if text is None:
        return None
    try:
        config = read_config(json.loads(text)["config"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise wc.CheckpointError(f"{path} has a damaged description.") from error
    if network is not None and config.name != network:
        raise wc.ConversionError(f"{path} holds the weights of {config.name}, not of {network}.")
    return config


def read_config(saved: Mapping[str, Any]) -> ModelConfig:
    """A description that was kept with weights, with the layers of the registry.

    Where explainers look is not a property of the weights: a later release may know better.
    """
    config = ModelConfig.from_json(saved)
    known = ENTRIES.get(config.name)
    return config if known is None else dataclasses.replace(config, layers=known.config.layers)


def class_names_of(entry: Entry) -> tuple[str, ...]:
    return () if entry.class_names is None else entry.class_names()


def build(
    entry: Entry, outputs: int, source: str | None = None, *, scan: bool = False, **options: Any
) -> Network:
    """A network without weights, in the form that those of a source want."""
    if scan and not entry.scans:
        scanning = ", ".join(name for name, other in ENTRIES.items() if other.scans)
        raise ValueError(
            f"scan=True needs a network whose blocks are all alike ({scanning}); "
            f"{entry.config.name} is none."
        )
    if scan:
        options["scan"] = True
    builder = entry.builder(source)
    return wc.abstract(lambda rngs: builder(outputs, rngs=rngs, **options))
