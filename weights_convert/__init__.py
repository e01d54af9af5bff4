"""Weights of other frameworks: readers of their files, name maps, and the store of results."""

from jaxplain.weights_convert import name_maps
from jaxplain.weights_convert.caffe_file import read_caffemodel
from jaxplain.weights_convert.convert import (
    Report,
    abstract,
    best_fit,
    convert,
    match,
    parameter_shapes,
    with_weights,
)
from jaxplain.weights_convert.errors import (
    CheckpointError,
    ConversionError,
    DownloadError,
    UnsafeCheckpointError,
)
from jaxplain.weights_convert.keras_file import read_keras
from jaxplain.weights_convert.npz_file import read_npz
from jaxplain.weights_convert.readers import read
from jaxplain.weights_convert.safetensors_file import read_safetensors, write_safetensors
from jaxplain.weights_convert.store import (
    cache_dir,
    check_name_hash,
    export,
    file_sha256,
    load,
    load_config,
    save,
)
from jaxplain.weights_convert.torch_file import read_torch

__all__ = [
    "CheckpointError",
    "ConversionError",
    "DownloadError",
    "Report",
    "UnsafeCheckpointError",
    "abstract",
    "best_fit",
    "cache_dir",
    "check_name_hash",
    "convert",
    "export",
    "file_sha256",
    "load",
    "load_config",
    "match",
    "name_maps",
    "parameter_shapes",
    "read",
    "read_caffemodel",
    "read_keras",
    "read_npz",
    "read_safetensors",
    "read_torch",
    "save",
    "with_weights",
    "write_safetensors",
]
