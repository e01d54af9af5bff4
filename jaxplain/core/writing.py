"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path` through a temporary file in the same folder."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o666 & ~_mask())  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, beside `folder`, which becomes it at the end if no error is raised.

    Raises:
        FileExistsError: it exists already.
        OSError: the folder above it is missing, or cannot be written in.
    """
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} exists already; name a new folder")
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    try:
        os.chmod(made, 0o777 & ~_mask())  # mkdtemp's folders are private
        yield made
        os.rename(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _mask() -> int:
    """What a new file's permissions are without."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
