"""Networks with their weights, by name or from the user's own files."""

from __future__ import annotations

import contextlib
import dataclasses
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
from jaxplain.core.addresses import is_address
from jaxplain.models.config import ModelConfig
from jaxplain.models.conversion import (
    Converted,
    build,
    cache_folder,
    class_names_of,
    convert_file,
    read_config,
)
from jaxplain.models.distant import fetched
from jaxplain.models.entries import ENTRIES, find, unknown
from jaxplain.models.entry import Entry, Hub, Package
from jaxplain.models.network import Network
from jaxplain.models.own import is_place, own_network
from jaxplain.models.vit import scanned_layer, stack_weights, unstack_weights
from jaxplain.weights_convert import readers

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
    scan: bool = False,
) -> Network:
    """A network with its weights, ready to classify and to be explained.

    Weights of a known name are fetched and converted once, and kept in the user's cache folder
    (``JAXPLAIN_CACHE``, else ``~/.cache/jaxplain``); what ``jaxplain convert NAME FILE`` put there
    serves the name where nothing can be fetched.

    Args:
        source: a name of ``list_models()``; a folder that ``save_pretrained`` or ``jaxplain
            convert`` wrote; a file of PyTorch, safetensors, Caffe, Keras or NumPy with the tensor
            names of one of the network's sources, with what lies beside it where the network's
            tensors are in two files; an address of such a folder or file, as ``gs://BUCKET/FILE``;
            or ``"hf:OWNER/NAME"`` (``"hf:OWNER/NAME/FILE"``) for a
            repository of the Hugging Face hub; or ``"module:name"``, a network of your own, see
            ``own_network``.
        network: for a repository, the name of the network that it belongs to; for a file where
            the tensors fit several networks.
        class_names: for a file, folder or repository, the names of its classes, one each logit, or
            their number; by default the network's own.
        dtype: what to compute in, for example ``jnp.bfloat16``; None for the input's dtype.
        fully_convolutional: True turns dense layers into convolutions, so that images of any
            aspect ratio give a score map. Vision transformers take them as they are.
        scan: True runs the blocks of a vision transformer as one ``jax.lax.scan`` over stacked
            weights: the same outputs from a smaller program.

    Returns:
        the network: ``(B, H, W, 3)`` to logits ``(B, N)``, or what else it makes. Its ``config`` is
        a ``ModelConfig``.

    Raises:
        ValueError: the name is unknown (the nearest are suggested), the network's blocks are not
            all alike (``scan``), or the weights do not fit or cannot be read
            (``weights_convert.CheckpointError``).
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
    options: dict[str, Any] = dict(dtype=dtype, fully_convolutional=fully_convolutional, scan=scan)
    text = os.fspath(source)
    path = Path(source).expanduser()
    if isinstance(source, str) and source in ENTRIES:
        if network is not None or class_names is not None:
            raise ValueError("network= and class_names= are for files; a known name has its own.")
        return _from_registry(source, options)
    if text.startswith("hf:"):
        return _from_hub(text, network, class_names, options)
    if is_address(text):
        with fetched(text, network) as copy:
            return from_pretrained(copy, network=network, class_names=class_names, **options)
    if path.is_dir():
        with _progress(f"loading {path}"):
            return _renamed(_from_folder(path, options), class_names, text)
    if path.is_file():
        return _from_file(path, network, class_names, options)
    if is_place(text):
        if network is not None or dtype is not None or fully_convolutional or scan:
            raise ValueError(
                "network=, dtype=, fully_convolutional= and scan= are for networks of jaxplain, "
                f"not for {text!r}"
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
    weights = unstack_weights(weights)  # of a scanned form, which is an option of the reader
    wc.save(folder, weights, {"network": config.name, "config": config.to_json()})


def untrained(model: Network, seed: int = 0) -> Network:
    """The same network with the random weights that training begins with.

    Raises:
        ValueError: the network does not come from ``from_pretrained``.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ValueError("The network has no config; only networks of from_pretrained have one.")
    entry = find(config.name)
    network = entry.builder(config.source)(config.outputs, rngs=nnx.Rngs(seed))
    network.config = dataclasses.replace(config, layers=entry.config.layers)
    return network


def _with_weights(
    entry: Entry, config: ModelConfig, weights: Mapping[str, Any], options: Mapping[str, Any]
) -> Network:
    """The network that ``config`` describes, with weights as the form without scan has them."""
    model = build(entry, config.outputs, config.source, **options)
    if options.get("scan"):
        weights = stack_weights(weights)
        layers = tuple((kind, scanned_layer(layer)) for kind, layer in config.layers)
        config = dataclasses.replace(config, layers=layers)
    model = wc.with_weights(model, weights)
    model.config = config
    return model


def _ready(converted: Converted, options: Mapping[str, Any]) -> Network:
    config = converted.config
    return _with_weights(ENTRIES[config.name], config, converted.weights, options)


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
        damaged = False
        try:
            folder = wc.cache_dir() / f"{name}-{wc.file_sha256(path)[:12]}"
            if folder.exists():
                return _from_folder(folder, options)
        except wc.CheckpointError:
            damaged = True  # the source is at hand, so it is simply made anew
        except OSError:
            pass  # said below, when the weights cannot be kept
        converted = convert_file(path, name, source=source.names.source, origin=origin)
        try:
            folder = cache_folder(converted)
            wc.save(folder, converted.weights, converted.description, replace=damaged)
        except OSError as error:
            _log.warning("the weights of %s could not be kept: %s", name, error)
        return _ready(converted, options)


def _cached(name: str, origin: str | None = None) -> Path | None:
    """The newest folder of a network's weights in the cache; if given, of those from ``origin``."""
    try:
        folders = list(wc.cache_dir().glob(f"{name}-????????????"))
        folders.sort(key=lambda f: f.stat().st_mtime, reverse=True)
    except OSError:  # there is no cache that could be read
        return None
    for folder in folders:
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
        config = read_config(saved["config"])
        entry = ENTRIES[config.name]
    except (KeyError, TypeError, AttributeError) as error:
        raise wc.CheckpointError(
            f"The config.json in {folder} does not describe a known network; delete the folder "
            "and convert the weights again."
        ) from error
    weights, _ = wc.load(folder, wc.parameter_shapes(build(entry, config.outputs, config.source)))
    # What published weights call their classes is no property of the weights: a later release may
    # know better.
    if saved.get("origin") in {str(source.weights) for source in entry.sources if source.weights}:
        config = dataclasses.replace(config, class_names=class_names_of(entry))
    return _with_weights(entry, config, weights, options)


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
