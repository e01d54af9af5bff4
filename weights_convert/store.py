"""Converted weights on disk: an Orbax checkpoint and a ``config.json`` in one folder.

    <folder>/config.json   what the weights are, where they came from, their checksum
    <folder>/weights/      the Orbax checkpoint: parameter name -> array

A folder appears complete or not at all: it is written beside its place, and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.core.addresses import is_address, local
from jaxplain.core.extras import missing
from jaxplain.weights_convert.errors import CheckpointError
from jaxplain.weights_convert.safetensors_file import write_safetensors

FORMAT = 1
_CONFIG, _WEIGHTS = "config.json", "weights"
_PARTIAL = ".partial-"
_TRIES = 50


def cache_dir() -> Path:
    """Where converted weights are kept.

    ``JAXPLAIN_CACHE`` if set, else ``jaxplain`` in ``XDG_CACHE_HOME`` or in ``~/.cache``.

    Raises:
        OSError: nothing of these is known: the user has no home directory; or it is an address.

    Example:
        >>> import os
        >>> from jaxplain.weights_convert import cache_dir
        >>> from unittest import mock
        >>> with mock.patch.dict(os.environ, JAXPLAIN_CACHE="/tmp/here"):
        ...     cache_dir().as_posix()
        '/tmp/here'
    """
    try:
        if own := os.environ.get("JAXPLAIN_CACHE"):
            if is_address(own):
                raise OSError(f"JAXPLAIN_CACHE is {own}, and must be a folder of this machine")
            return Path(own).expanduser()
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "jaxplain"
    except RuntimeError as error:
        raise OSError("there is no home directory; JAXPLAIN_CACHE names another place") from error


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_name_hash(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, compared with the part of it that the file's name may hold.

    Files of torchvision are named like ``resnet18-f37072fd.pth``. Eight digits that are a date
    are none of a checksum.

    Raises:
        CheckpointError: the checksum is another; the file is damaged, or was renamed.

    Example:
        >>> import pathlib, tempfile
        >>> from jaxplain.weights_convert import check_name_hash
        >>> file = pathlib.Path(tempfile.mkdtemp(), "empty-e3b0c442.pth")
        >>> file.touch()
        >>> check_name_hash(file)[:8]
        'e3b0c442'
    """
    sha256 = file_sha256(path)
    match = re.fullmatch(r".*-([0-9a-f]{8,64})\.(pth|pt|th)", Path(path).name)
    if match and not sha256.startswith(match[1]) and not re.fullmatch(r"(19|20)\d{6}", match[1]):
        raise CheckpointError(
            f"{path} is damaged: its name says that its SHA-256 begins with {match[1]}, but it "
            f"begins with {sha256[: len(match[1])]}; download it again, or rename it if you "
            "altered it."
        )
    return sha256


def export(
    path: str | os.PathLike[str], weights: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> None:
    """Writes weights as a ``.safetensors`` file, atomically, with their description within.

    Args:
        path: the file; one already there is replaced.
        weights: parameter name -> array.
        config: the description, kept as JSON in the file's metadata under ``jaxplain``.

    Raises:
        OSError: the file cannot be written. Nothing half-written remains.
    """
    path = local(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{path.name}{_PARTIAL}", dir=path.parent))
    try:
        write_safetensors(folder / path.name, weights, {"jaxplain": json.dumps(config)})
        (folder / path.name).chmod(0o666 & ~_umask())
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def save(
    folder: str | os.PathLike[str],
    weights: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    *,
    replace: bool = False,
) -> None:
    """Writes weights and their description into a new folder, atomically.

    Where two processes write the same folder at once, the first wins and both succeed.

    Args:
        folder: the folder to make. Its parents are made too.
        weights: parameter name -> array.
        config: what ``config.json`` shall hold besides the format number and the checksum.
        replace: whether a folder already there gives way; otherwise it stays as it is.

    Raises:
        OSError: the folder cannot be written. Nothing half-written remains.
    """
    folder = local(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}{_PARTIAL}", dir=folder.parent))
    try:
        _claim(partial, sum(value.nbytes for value in arrays.values()))
        try:
            _orbax().save(partial / _WEIGHTS, arrays)
        except (ImportError, OSError):
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds where a disk is full
            reason = " ".join(str(error).split())
            raise OSError(f"{folder} cannot be written: {reason:.300}") from error
        text = {"format": FORMAT, **config, "weights_sha256": _digest(arrays)}
        (partial / _CONFIG).write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only the owner can read
        if replace and folder.exists():
            aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}{_PARTIAL}", dir=folder.parent))
            try:
                os.rename(folder, aside / "old")
            except FileNotFoundError:
                pass  # another process was faster
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        try:
            os.rename(partial, folder)
        except OSError:
            if not (folder / _CONFIG).is_file():
                raise
    finally:
        _remove(partial)


def _claim(folder: Path, size: int) -> None:
    """An OSError unless the disk, the quota and the limits leave room for so many bytes.

    Orbax writes in threads of its own, which go on for a while after one of them has failed.
    """
    place = folder / "room"
    with place.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif size > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    place.unlink()


def _remove(folder: Path) -> None:
    """Removes a folder in which threads of Orbax may still be writing."""
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _remove_stale(folder: Path) -> None:
    """What a process that was killed a day ago or more has left beside ``folder``."""
    for path in folder.parent.glob(f"{glob.escape(folder.name)}{_PARTIAL}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 86400:
                shutil.rmtree(path, ignore_errors=True)


def load_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the ``config.json`` of a folder that ``save`` wrote.

    Raises:
        CheckpointError: it is missing, damaged, or of another format.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} holds no {_CONFIG}, so it is no folder of converted weights."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder) from error
    if not isinstance(config, dict):
        raise _damaged(folder)
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} is of format {config.get('format')!r}, not {FORMAT}; delete the folder "
            "and convert the weights again."
        )
    return config


def load(
    folder: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what ``save`` wrote.

    Args:
        folder: the folder.
        shapes: parameter name -> shape that the weights must have; None to take them as they are.

    Returns:
        (weights, config).

    Raises:
        CheckpointError: the folder is missing, damaged, or holds other shapes.
    """
    folder = Path(folder).absolute()
    config = load_config(folder)
    try:
        weights = {name: np.asarray(v) for name, v in _orbax().restore(folder / _WEIGHTS).items()}
        intact = _digest(weights) == config.get("weights_sha256")
    except ImportError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
        raise _damaged(folder) from error
    if not intact:
        raise _damaged(folder)
    if shapes is not None:
        for name in sorted(shapes.keys() | weights.keys()):
            found = weights[name].shape if name in weights else "missing"
            needed = tuple(shapes[name]) if name in shapes else "not known"
            if found != needed:
                raise CheckpointError(
                    f"{folder} does not fit the network: {name} is {found}, must be {needed}; "
                    "delete the folder and convert the weights again."
                )
    return weights, config


def _damaged(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"The converted weights in {folder} are damaged; delete the folder, and they are "
        "converted again."
    )


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.name}:{arrays[name].shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _orbax:
    """The little of Orbax that is needed, with plain NumPy arrays in and out."""

    def __init__(self):
        try:
            import orbax.checkpoint as ocp  # slow to import, hence not at the top
        except ImportError as error:
            raise missing("zoo", "orbax-checkpoint", "A store of weights") from error
        self._ocp = ocp

    def save(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        with self._ocp.Checkpointer(self._ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(path, arrays)

    def restore(self, path: Path) -> dict[str, np.ndarray]:
        names = self._ocp.args.PyTreeRestore
        with self._ocp.Checkpointer(self._ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
            kinds = {name: self._ocp.RestoreArgs(restore_type=np.ndarray) for name in tree}
            return checkpointer.restore(path, args=names(restore_args=kinds))
