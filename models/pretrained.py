"""Networks with their weights, by name or from the user's own files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxplain import weights_convert as wc
from jaxplain.models.classes import nearest
from jaxplain.models.config import ModelConfig
from jaxplain.models.entry import Entry
from jaxplain.models.registry import REGISTRY

_TORCH_SUFFIXES = (".pth", ".pt", ".th", ".tar", ".bin")


def list_models() -> list[str]:
    """The names that ``from_pretrained`` knows.

    Example:
      >>> from jaxplain import models
      >>> models.list_models()
      ['efficientnet_lite0']
    """
    return sorted(REGISTRY)


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    network: str | None = None,
    class_names: Sequence[str] | None = None,
    dtype: jnp.dtype | None = None,
) -> nnx.Module:
    """A network with its weights, ready to classify and to be explained.

    Weights of a known name are converted once, and kept in the user's cache folder
    (``JAXPLAIN_CACHE``, else ``~/.cache/jaxplain``).

    Args:
      source: a name of ``list_models()``, a folder that ``save_pretrained`` wrote, or a ``.pth``
        file with the same names of tensors as the original.
      network: for a file, the name of the network that it belongs to; by default the only one.
      class_names: for a file, the names of its classes, one each logit; by default the
        network's own.
      dtype: what to compute in, for example ``jnp.bfloat16``; None for the input's dtype.

    Returns:
      the network: ``(B, H, W, 3)`` to logits ``(B, N)``. Its ``config`` is a ``ModelConfig``.

    Raises:
      ValueError: the name is unknown (the nearest are suggested), or the weights do not fit or
        cannot be read (``weights_convert.CheckpointError``).
      FileNotFoundError: there is no such file.
      ImportError: an extra must be installed.

    Example:
      >>> from jaxplain import models
      >>> models.from_pretrained("efficientnet_lite")
      Traceback (most recent call last):
      ...
      ValueError: There is no network 'efficientnet_lite'; the nearest are 'efficientnet_lite0'.
    """
    path = Path(source).expanduser()
    if isinstance(source, str) and source in REGISTRY:
        if network is not None or class_names is not None:
            raise ValueError("network= and class_names= are for files; a known name has its own.")
        return _from_registry(source, dtype)
    if path.is_dir():
        with _progress(f"loading {path}"):
            return _from_folder(path, dtype)
    if path.is_file():
        return _from_file(path, network, class_names, dtype)
    text = os.fspath(source)
    if os.sep in text or "/" in text or text.endswith(_TORCH_SUFFIXES):
        raise FileNotFoundError(f"There is no file or folder {text}.")
    raise _unknown(text)


def save_pretrained(model: nnx.Module, folder: str | os.PathLike[str]) -> None:
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


def _unknown(name: str) -> ValueError:
    near = nearest(name, list_models()) or list_models()
    return ValueError(
        f"There is no network {name!r}; the nearest are {', '.join(map(repr, near))}."
    )


def _build(entry: Entry, count: int, dtype: Any) -> nnx.Module:
    return wc.abstract(lambda rngs: entry.build(count, dtype=dtype, rngs=rngs))


def _finish(model: nnx.Module, weights: Mapping[str, Any], config: ModelConfig) -> nnx.Module:
    model = wc.with_weights(model, weights)
    model.config = config
    return model


def _convert(entry: Entry, path: Path, model: nnx.Module) -> dict[str, np.ndarray]:
    shapes = wc.parameter_shapes(model)
    names = entry.sources[0].names
    ignore = (*names.counters, *names.auxiliary)
    return wc.convert(wc.read_torch(path), shapes, names.resolve(shapes), ignore)


def _from_registry(name: str, dtype: Any) -> nnx.Module:
    entry = REGISTRY[name]
    with _progress(f"loading the weights of {name}"):
        try:
            path = entry.sources[0].weights.fetch()
        except ImportError:
            # The package may have been removed since its weights were converted.
            for folder in sorted(wc.cache_dir().glob(f"{name}-????????????")):
                return _from_folder(folder, dtype)
            raise
        sha256 = wc.file_sha256(path)
        folder = wc.cache_dir() / f"{name}-{sha256[:12]}"
        damaged = False
        if folder.exists():
            try:
                return _from_folder(folder, dtype)
            except wc.CheckpointError:
                damaged = True  # the source is at hand, so it is simply made anew
        class_names = entry.class_names()
        config = dataclasses.replace(entry.config, class_names=class_names)
        model = _build(entry, len(class_names), dtype)
        weights = _convert(entry, path, model)
        description = {
            "network": name,
            "source": path.name,
            "source_sha256": sha256,
            "config": config.to_json(),
        }
        try:
            wc.save(folder, weights, description, replace=damaged)
        except OSError as error:
            print(f"jaxplain: the weights could not be kept in {folder}: {error}", file=sys.stderr)
        return _finish(model, weights, config)


def _from_folder(folder: Path, dtype: Any) -> nnx.Module:
    saved = wc.load_config(folder)
    try:
        config = ModelConfig.from_json(saved["config"])
        entry = REGISTRY[config.name]
    except (KeyError, TypeError, AttributeError) as error:
        raise wc.CheckpointError(
            f"The config.json in {folder} does not describe a known network; delete the folder "
            "and convert the weights again."
        ) from error
    model = _build(entry, len(config.class_names), dtype)
    weights, _ = wc.load(folder, wc.parameter_shapes(model))
    return _finish(model, weights, config)


def _from_file(path: Path, network, class_names, dtype) -> nnx.Module:
    if network is None:
        if len(REGISTRY) > 1:
            raise ValueError(f"Say which network {path} is of: network= one of {list_models()}.")
        (network,) = REGISTRY
    if network not in REGISTRY:
        raise _unknown(network)
    entry = REGISTRY[network]
    names = tuple(entry.class_names() if class_names is None else class_names)
    model = _build(entry, len(names), dtype)
    with _progress(f"converting {path}"):
        weights = _convert(entry, path, model)
        return _finish(model, weights, dataclasses.replace(entry.config, class_names=names))


@contextlib.contextmanager
def _progress(what: str, after: float = 1.0) -> Iterator[None]:
    """Says on stderr what is going on, if it takes longer than ``after`` seconds."""
    timer = threading.Timer(
        after, lambda: print(f"jaxplain: {what} ...", file=sys.stderr, flush=True)
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
