"""One reader for all formats, which are told apart by the files' first bytes."""

from __future__ import annotations

import os

import numpy as np

from jaxplain.weights_convert.archive import Archive
from jaxplain.weights_convert.caffe_file import read_caffemodel
from jaxplain.weights_convert.errors import CheckpointError
from jaxplain.weights_convert.file import mapped, naming
from jaxplain.weights_convert.keras_file import read_keras
from jaxplain.weights_convert.npz_file import read_npz
from jaxplain.weights_convert.safetensors_file import read_safetensors
from jaxplain.weights_convert.torch_file import read_torch

#: Suffixes of files with weights.
SUFFIXES = (
    *(".pth", ".pt", ".th", ".tar", ".bin"),
    *(".safetensors", ".caffemodel", ".h5", ".hdf5", ".keras", ".npz"),
)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a file of weights of any format that one of the readers knows.

    Args:
        path: a file of PyTorch, safetensors, Caffe (to be named ``.caffemodel``), Keras or NumPy.

    Returns:
        name -> array, as the format's reader gives it.

    Raises:
        CheckpointError: the format is not known, or the file is cut short, damaged or hostile.
        FileNotFoundError: there is no such file.
        ImportError: the format needs a package that is not installed.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from jaxplain.weights_convert import read
        >>> file = pathlib.Path(tempfile.mkdtemp(), "x.npz")
        >>> np.savez(file, a=np.arange(3))
        >>> read(file)
        {'a': array([0, 1, 2])}
    """
    with naming(path) as path:
        data = mapped(path)
        head = bytes(data[:512])
        if head[:2] == b"PK":
            names = Archive(data).names
    if head[:2] == b"PK":
        if "model.weights.h5" in names:
            return read_keras(path)
        return read_npz(path) if all(n.endswith(".npy") for n in names) else read_torch(path)
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return read_keras(path)
    if head[8:9] == b"{":
        return read_safetensors(path)
    if path.suffix == ".caffemodel":
        return read_caffemodel(path)
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        return read_torch(path)
    with naming(path):
        raise CheckpointError(
            "is of no known format: it should be a file of PyTorch, safetensors, Caffe "
            "(*.caffemodel), Keras or NumPy (*.npz)"
        )
