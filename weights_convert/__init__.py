"""Weights of other frameworks: readers of their files, name maps, and the store of results."""

from jaxplain.weights_convert import name_maps
from jaxplain.weights_convert.convert import abstract, convert, parameter_shapes, with_weights
from jaxplain.weights_convert.errors import (
    CheckpointError,
    ConversionError,
    UnsafeCheckpointError,
)
from jaxplain.weights_convert.store import cache_dir, file_sha256, load, load_config, save
from jaxplain.weights_convert.torch_file import read_torch

__all__ = [
    "CheckpointError",
    "ConversionError",
    "UnsafeCheckpointError",
    "abstract",
    "cache_dir",
    "convert",
    "file_sha256",
    "load",
    "load_config",
    "name_maps",
    "parameter_shapes",
    "read_torch",
    "save",
    "with_weights",
]
