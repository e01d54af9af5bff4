"""Networks with their weights, by name or from the user's own files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxplain import weights_convert as wc
from jaxplain.models.config import ModelConfig
from jaxplain.models.entries import ENTRIES, find, unknown
from jaxplain.models.entry import Entry, Hub, Package, Source
from jaxplain.models.network import Network
from jaxplain.models.own import is_place, own_network
from jaxplain.models.recognition import recognise
from jaxplain.weights_convert import readers
from jaxplain.weights_convert.safetensors_file import read_metadata

_log = logging.getLogger(__name__)


def list_models() -> list[str]:
    """The names that ``from_pretrained`` knows.

    Example:
        >>> from jaxplain import models
        >>> "efficientnet_lite0" in models.list_models()
        True
    """
    return sorted(ENTRIES)


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    network: str | None = None,
    class_names: Sequence[str] | int | None = None,
    dtype: jnp.dtype | None = None,
    fully_convolutional: bool = False,
) -> Network:
    """A network with its weights, ready to classify and to be explained.

    Weights of a known name are fetched and converted once, and kept in the user's cache folder
    (``JAXPLAIN_CACHE``, else ``~/.cache/jaxplain``); what ``jaxplain convert NAME FILE`` put there
    serves the name where nothing can be fetched.

    Args:
        source: a name of ``list_models()``; a folder that ``save_pretrained`` or ``jaxplain
            convert`` wrote; a file of PyTorch, safetensors, Caffe, Keras or NumPy with the tensor
            names of one of the network's sources; or ``"hf:OWNER/NAME"``
            (``"hf:OWNER/NAME/FILE"``) for a repository of the Hugging Face hub; or
            ``"module:name"``, a network of your own, see ``own_network``.
        network: for a repository, the name of the network that it belongs to; for a file where
            the tensors fit several networks.
        class_names: for a file, folder or repository, the names of its classes, one each logit, or
            their number; by default the network's own.
        dtype: what to compute in, for example ``jnp.bfloat16``; None for the input's dtype.
        fully_convolutional: True turns dense layers into convolutions, so that images of any
            aspect ratio give a score map.

    Returns:
        the network: ``(B, H, W, 3)`` to logits ``(B, N)``. Its ``config`` is a ``ModelConfig``.

    Raises:
        ValueError: the name is unknown (the nearest are suggested), or the weights do not fit or
            cannot be read (``weights_convert.CheckpointError``).
        weights_convert.DownloadError: the weights cannot be fetched; says which file to put where.
        FileNotFoundError: there is no such file.
        ImportError: an extra must be installed.

    Example:
        >>> from jaxplain import models
        >>> models.from_pretrained("efficientnet_lite")
        Traceback (most recent call last):
        ...
        ValueError: There is no network 'efficientnet_lite'; the nearest are ...
    """
    options: dict[str, Any] = dict(dtype=dtype, fully_convolutional=fully_convolutional)
    text = os.fspath(source)
    path = Path(source).expanduser()
    if isinstance(source, str) and source in ENTRIES:
        if network is not None or class_names is not None:
            raise ValueError("network= and class_names= are for files; a known name has its own.")
        return _from_registry(source, options)
    if text.startswith("hf:"):
        return _from_hub(text, network, class_names, options)
    if path.is_dir():
        with _progress(f"loading {path}"):
            return _renamed(_from_folder(path, options), class_names, text)
    if path.is_file():
        return _from_file(path, network, class_names, options)
    if is_place(text):
        if network is not None or dtype is not None or fully_convolutional:
            raise ValueError(
                f"network=, dtype= and fully_convolutional= are for networks of jaxplain, not for "
                f"{text!r}"
            )
        return own_network(text, class_names=class_names)
    if os.sep in text or "/" in text or text.endswith(readers.SUFFIXES):
        raise FileNotFoundError(f"There is no file or folder {text}.")
    raise unknown(text)


def save_pretrained(model: Network, folder: str | os.PathLike[str]) -> None:
    """Writes a network of the registry, as it is now, into a new folder for ``from_pretrained``.

    Raises:
        ValueError: the network does not come from ``from_pretrained``.
        FileExistsError: the folder exists.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ValueError("The network has no config; only networks of from_pretrained have one.")
    if Path(folder).exists():
        raise FileExistsError(f"{folder} exists already.")
    leaves = nnx.to_flat_state(nnx.state(model))
    weights = {".".join(map(str, p)): np.asarray(v.get_value()) for p, v in leaves}
    wc.save(folder, weights, {"network": config.name, "config": config.to_json()})


def untrained(model: Network, seed: int = 0) -> Network:
    """The same network with the random weights that training begins with.

    Raises:
        ValueError: the network does not come from ``from_pretrained``.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ValueError("The network has no config; only networks of from_pretrained have one.")
    network = find(config.name).build(config.outputs, rngs=nnx.Rngs(seed))
    network.config = config
    return network


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
    tensors = wc.read(path)
    own = _own_config(path, network)
    if network is None:
        try:
            network = own.name if own else recognise(tensors, outputs or None)
        except wc.ConversionError as error:
            raise wc.ConversionError(f"{path}: {error}") from None
    entry = find(network)
    if class_names is None:
        class_names = own.class_names if own else _class_names(entry)
    outputs = outputs or len(class_names) or (own.outputs if own else entry.outputs)
    model = _build(entry, outputs)
    maps = {s.names.source: s for s in entry.sources}
    if source is None:
        names = wc.match(tensors, model, [s.names for s in entry.sources])
    elif source in maps:
        names = maps[source].names
    else:
        raise ValueError(f"{network} has no source {source!r}; it has {', '.join(maps)}.")
    weights, report = wc.convert(tensors, model, names)
    found = maps.get(names.source)
    config = own or _config(entry, found or entry.sources[0], origin)
    config = dataclasses.replace(config, class_names=tuple(class_names), outputs=outputs)
    description = {
        "network": network,
        "source": path.name,
        "source_sha256": sha256,
        "origin": None if origin is None else str(origin),
        "report": str(report).splitlines(),
        "config": config.to_json(),
    }
    return Converted(weights, config, report, description)


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
        config = _read_config(json.loads(text)["config"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise wc.CheckpointError(f"{path} has a damaged description.") from error
    if network is not None and config.name != network:
        raise wc.ConversionError(f"{path} holds the weights of {config.name}, not of {network}.")
    return config


def _read_config(saved: Mapping[str, Any]) -> ModelConfig:
    """A description that was kept with weights, with the layers of the registry.

    Where explainers look is not a property of the weights: a later release may know better.
    """
    config = ModelConfig.from_json(saved)
    known = ENTRIES.get(config.name)
    return config if known is None else dataclasses.replace(config, layers=known.config.layers)


def _class_names(entry: Entry) -> tuple[str, ...]:
    return () if entry.class_names is None else entry.class_names()


def _build(entry: Entry, outputs: int, dtype=None, fully_convolutional=False) -> Network:
    options: dict[str, Any] = dict(dtype=dtype, fully_convolutional=fully_convolutional)
    return wc.abstract(lambda rngs: entry.build(outputs, rngs=rngs, **options))


def _ready(converted: Converted, options: Mapping[str, Any]) -> Network:
    config = converted.config
    model = _build(ENTRIES[config.name], config.outputs, **options)
    model = wc.with_weights(model, converted.weights)
    model.config = config
    return model


def _from_registry(name: str, options: Mapping[str, Any]) -> Network:
    source = next((s for s in ENTRIES[name].sources if s.weights), None)
    origin = source.weights if source else None
    with _progress(f"loading the weights of {name}"):
        if isinstance(origin, Hub) and (folder := _cached(name, str(origin))):
            with contextlib.suppress(wc.CheckpointError):  # a damaged one is made anew
                return _from_folder(folder, options)
        try:
            if source is None or origin is None:
                raise wc.DownloadError(f"the weights of {name} cannot be fetched by its name")
            path = origin.fetch()
        except (ImportError, wc.DownloadError) as error:
            # The file may have been converted before, or brought by the user.
            if folder := _cached(name):
                return _from_folder(folder, options)
            if isinstance(error, ImportError):
                raise
            raise wc.DownloadError(f"{error}. {_advice(name, origin)}") from error
        folder = wc.cache_dir() / f"{name}-{wc.file_sha256(path)[:12]}"
        damaged = False
        if folder.exists():
            try:
                return _from_folder(folder, options)
            except wc.CheckpointError:
                damaged = True  # the source is at hand, so it is simply made anew
        converted = convert_file(path, name, source=source.names.source, origin=origin)
        try:
            wc.save(folder, converted.weights, converted.description, replace=damaged)
        except OSError as error:
            _log.warning("the weights could not be kept in %s: %s", folder, error)
        return _ready(converted, options)


def _cached(name: str, origin: str | None = None) -> Path | None:
    """The newest folder of a network's weights in the cache; if given, of those from ``origin``."""
    folders = wc.cache_dir().glob(f"{name}-????????????")
    for folder in sorted(folders, key=lambda f: f.stat().st_mtime, reverse=True):
        with contextlib.suppress(wc.CheckpointError):
            if origin is None or wc.load_config(folder).get("origin") == origin:
                return folder
    return None


def _advice(name: str, origin: Package | Hub | None) -> str:
    sources = ", ".join(s.names.source for s in ENTRIES[name].sources)
    if isinstance(origin, Hub):
        what = f"Download {origin.file} from https://huggingface.co/{origin.repo} where you can"
    else:
        what = f"Get a file with the tensor names of one of its sources ({sources})"
    return (
        f"{what}, and run `jaxplain convert {name} FILE` once, after which the name works; or "
        f"pass it as from_pretrained(FILE, network={name!r})."
    )


def _from_hub(text: str, network, class_names, options) -> Network:
    parts = text.removeprefix("hf:").split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise ValueError(f"{text!r} must be like 'hf:OWNER/NAME' or 'hf:OWNER/NAME/FILE'.")
    repo = "/".join(parts[:2])
    origin = Hub(repo, parts[2]) if parts[2:] else Hub(repo)
    if network is None:
        owners = [n for n, e in ENTRIES.items() if any(s.weights == origin for s in e.sources)]
        if not owners:
            raise ValueError(f"Say which network {text} is of: network= one of {list_models()}.")
        network = owners[0]
    find(network)
    try:
        path = origin.fetch()
    except wc.DownloadError as error:
        raise wc.DownloadError(f"{error}. {_advice(network, origin)}") from error
    with _progress(f"converting {text}"):
        return _ready(convert_file(path, network, class_names=class_names, origin=origin), options)


def _from_folder(folder: Path, options: Mapping[str, Any]) -> Network:
    saved = wc.load_config(folder)
    try:
        config = _read_config(saved["config"])
        entry = ENTRIES[config.name]
    except (KeyError, TypeError, AttributeError) as error:
        raise wc.CheckpointError(
            f"The config.json in {folder} does not describe a known network; delete the folder "
            "and convert the weights again."
        ) from error
    model = _build(entry, config.outputs, **options)
    weights, _ = wc.load(folder, wc.parameter_shapes(model))
    model = wc.with_weights(model, weights)
    # What published weights call their classes is no property of the weights: a later release may
    # know better.
    if saved.get("origin") in {str(source.weights) for source in entry.sources if source.weights}:
        config = dataclasses.replace(config, class_names=_class_names(entry))
    model.config = config
    return model


def _renamed(model: Network, class_names: Sequence[str] | int | None, place: str) -> Network:
    """The network with other names of its classes."""
    if class_names is None:
        return model
    count = class_names if isinstance(class_names, int) else len(class_names)
    if count != model.config.outputs:
        raise ValueError(f"{place} has {model.config.outputs} classes, not {count}.")
    names = () if isinstance(class_names, int) else tuple(class_names)
    model.config = dataclasses.replace(model.config, class_names=names)
    return model


def _from_file(path: Path, network, class_names, options) -> Network:
    with _progress(f"converting {path}"):
        return _ready(convert_file(path, network, class_names=class_names), options)


@contextlib.contextmanager
def _progress(what: str, after: float = 1.0) -> Iterator[None]:
    """Says what is going on, if it takes longer than ``after`` seconds."""
    timer = threading.Timer(after, lambda: _log.info("%s ...", what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
