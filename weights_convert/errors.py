"""The errors of reading, converting and storing weights; all but ``DownloadError`` are
``ValueError``.
"""

from __future__ import annotations


class CheckpointError(ValueError):
    """A file or folder of weights cannot be read; the message says why, in one sentence."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint asks for something that is neither a tensor nor a plain container."""


class ConversionError(CheckpointError):
    """The tensors of a checkpoint do not fit the network.

    Attributes:
        missing: names that the network needs and the checkpoint lacks.
        unexpected: names that the checkpoint has and the network does not know.
        wrong_shape: (name, shape found, shape needed) of tensors that do not fit.
        bad: names of tensors with NaN, infinity or complex numbers, and of impossible variances.
    """

    def __init__(self, message, missing=(), unexpected=(), wrong_shape=(), bad=()):
        super().__init__(message)
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.wrong_shape = tuple(wrong_shape)
        self.bad = tuple(bad)


class DownloadError(OSError):
    """Weights cannot be fetched; the message says what to do instead."""
