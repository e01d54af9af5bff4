"""Reads Keras's ``.h5`` and ``.keras`` files, without Keras."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.core.extras import missing
from jaxplain.weights_convert.archive import Archive
from jaxplain.weights_convert.errors import CheckpointError, UnsafeCheckpointError
from jaxplain.weights_convert.file import check_shape, mapped, naming

_HDF5 = b"\x89HDF\r\n\x1a\n"
_SECONDS = 60
# Names that Keras 1 gave: block1_conv1_W_1:0, bn_conv1_running_std:0 ...
_OLD_LEAVES = {
    "W": "kernel",
    "b": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}
_OLD = re.compile(rf".*_({'|'.join(_OLD_LEAVES)})(?:_\d+)?")


def read_keras(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the weights of an HDF5 file or a ``.keras`` archive that Keras wrote.

    - Of Keras 1 and 2, and of ``model.save("x.h5")``: ``"layer/kernel"``, ``"layer/bias"``,
      ``"layer/gamma"`` ..., with the layer's name as in the file's ``layer_names``.
    - Of Keras 3 (``.weights.h5``, ``.keras``): ``"layer/vars/0"``, ``"layer/vars/1"`` ..., for
      that is how it names them; the state of optimizers and random generators is left out.

    Args:
        path: the file.

    Returns:
        name -> array. The arrays are read-only views of the mapped file. Kernels are
        ``(h, w, in, out)``, matrices ``(in, out)``.

    Raises:
        UnsafeCheckpointError: the file refers to other files or places.
        CheckpointError: it is no such file, is cut short or damaged, or is compressed.
        FileNotFoundError: there is no such file.
        ImportError: the package h5py is not installed.

    Example:
        >>> import pathlib, tempfile
        >>> from jaxplain.weights_convert import read_keras
        >>> file = pathlib.Path(tempfile.mkdtemp(), "x.h5")
        >>> _ = file.write_text("<html>not found</html>")
        >>> read_keras(file)
        Traceback (most recent call last):
        ...
        jaxplain.weights_convert.errors.CheckpointError: ...x.h5 is not a Keras file.
    """
    with naming(path) as path:
        data = mapped(path)
        offset = 0
        if bytes(data[:2]) == b"PK":
            archive = Archive(data)
            if "model.weights.h5" not in archive.names:
                raise CheckpointError("is not a Keras file: its archive has no model.weights.h5")
            offset = archive.offset("model.weights.h5")
            data = archive.stored("model.weights.h5")
        if bytes(data[:8]) != _HDF5:
            raise CheckpointError("is not a Keras file")
        found = _table(path, offset, data.size)
        arrays = {name: _array(name, place, data) for name, place in found["sets"].items()}
        return _named(arrays, found["texts"])


def _table(path: Path, offset: int, size: int) -> dict[str, Any]:
    """Where the data sets lie, by ``_hdf5_table.py`` in a process of its own."""
    program = [sys.executable, "-I", str(Path(__file__).with_name("_hdf5_table.py"))]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "HDF5_USE_FILE_LOCKING": "FALSE"}
    try:
        run = subprocess.run(
            [*program, str(path.absolute()), str(offset), str(size)],
            capture_output=True,
            timeout=_SECONDS,
            env=environment,
        )
        result = json.loads(run.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise CheckpointError("is cut short or damaged: the HDF5 library gave up on it") from error
    if "missing" in result:
        raise missing("zoo", "h5py", "Reading Keras files")
    if "error" in result:
        reason = result["error"]
        if "link to elsewhere" in reason:
            raise UnsafeCheckpointError(reason)
        raise CheckpointError(f"is cut short or damaged ({reason})")
    return result


def _array(name: str, place: Any, data: np.ndarray) -> np.ndarray:
    if isinstance(place, str):
        unsafe = place in ("lies in another file", "refers to other data")
        kind = UnsafeCheckpointError if unsafe else CheckpointError
        raise kind(f"the data set {name!r:.80} {place}")
    offset, shape, dtype, *compact = place
    if compact:
        data, offset = np.frombuffer(bytes.fromhex(compact[0]), np.uint8), 0
    dtype = np.dtype(dtype)
    check_shape(name, shape, dtype.itemsize)
    end = offset + math.prod(shape) * dtype.itemsize
    if not 0 <= offset <= end <= data.size:
        raise CheckpointError(f"is cut short or damaged: {name!r:.80} lies beyond its end")
    return data[offset:end].view(dtype).reshape(shape)


def _named(arrays: dict[str, np.ndarray], texts: dict[str, dict]) -> dict[str, np.ndarray]:
    for root in ("", "model_weights"):
        if "layer_names" in texts.get(root, ()):
            return _of_layers(arrays, texts, root)
    named = {}
    for path, array in arrays.items():
        parts = path.split("/")
        if parts[-2:-1] != ["vars"] or "seed_generator" in parts or parts[0] == "optimizer":
            if parts[-2:-1] != ["vars"]:
                raise CheckpointError(f"is not a Keras file of weights: it holds {path!r:.80}")
            continue
        own = texts.get(path.rpartition("/")[0], {}).get("name")
        name = own[0] if own else parts[-3] if parts[2:] else ""
        key = f"{name}/vars/{parts[-1]}"
        if key in named:
            raise CheckpointError(f"two of its layers are named {name!r:.80}")
        named[key] = array
    if not named:
        raise CheckpointError("is not a Keras file of weights: it holds no layers")
    return named


def _of_layers(arrays, texts, root: str) -> dict[str, np.ndarray]:
    named = {}
    for layer in texts[root]["layer_names"]:
        group = f"{root}/{layer}" if root else layer
        for weight in texts.get(group, {}).get("weight_names", ()):
            if f"{group}/{weight}" not in arrays:
                raise CheckpointError(f"the weight {weight!r:.80} of {layer!r:.80} is missing")
            leaf = weight.rpartition("/")[2].removesuffix(":0")
            if old := _OLD.fullmatch(leaf):
                leaf = _OLD_LEAVES[old[1]]
            key = f"{layer}/{leaf}"
            if key in named:
                raise CheckpointError(f"the weight {key!r:.80} is there twice")
            named[key] = arrays[f"{group}/{weight}"]
    if not named:
        raise CheckpointError("is not a Keras file of weights: its layers have none")
    return named
