"""Folders on this machine and elsewhere: whatever is put into one appears whole or not at all.

A folder is named by a path, or by an address such as ``gs://bucket/maps``, ``s3://...`` or
``memory://...``, for which fsspec and the package of that scheme are needed.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from jaxplain.core.addresses import is_address
from jaxplain.core.extras import missing

__all__ = ["Folder", "folder_at"]

#: Where a file that is uploaded appears when it is complete; elsewhere it is renamed afterwards.
_WHOLE = ("memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss")
_TEMPORARY = ".jaxplain.tmp"
_STALE = 86400.0  # seconds


class Folder(Protocol):
    """What is done with a folder of files, wherever it is."""

    def make(self) -> None:
        """Makes the folder and those above it, unless they are there."""
        ...

    def names(self, pattern: str) -> list[str]:
        """The names of the files in it that a shell pattern fits, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def write(self, name: str, content: bytes, *, new: bool = False) -> None:
        """Puts a file there; if it is to be ``new``, one already there stays as it is."""
        ...

    def writing(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A path on this machine to write a file to, which is put there if no error is raised."""
        ...

    def reading(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A path on this machine to read a file from."""
        ...


def folder_at(where: str | os.PathLike[str]) -> Folder:
    """The folder of a path or an address.

    Raises:
        ImportError: an address needs a package that is not installed.
        ValueError: no package is known for the scheme of an address.
    """
    text = os.fspath(where)
    if text.startswith("file://"):
        return LocalFolder(Path(url2pathname(urlsplit(text).path)))
    return RemoteFolder(text) if is_address(text) else LocalFolder(Path(text).expanduser())


class LocalFolder:
    """A folder of this machine, or that it has mounted."""

    def __init__(self, path: Path):
        self.path = path
        self._swept = False

    def __str__(self) -> str:
        return str(self.path)

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def names(self, pattern: str) -> list[str]:
        # `scandir` and not `glob`, which asks for every file by itself.
        try:
            with os.scandir(self.path) as entries:
                return sorted(fnmatch.filter((entry.name for entry in entries), pattern))
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes, *, new: bool = False) -> None:
        with self.writing(name, new=new) as path:
            path.write_bytes(content)

    @contextlib.contextmanager
    def writing(self, name: str, *, new: bool = False) -> Iterator[Path]:
        self._sweep()
        # Host and process: nobody else writes to this file.
        temporary = self.path / f"{name}.{_host()}.{os.getpid()}{_TEMPORARY}"
        try:
            yield temporary
            _sync(temporary)
            if new:
                with contextlib.suppress(FileExistsError):
                    os.link(temporary, self.path / name)
            else:
                os.replace(temporary, self.path / name)
            if os.name == "posix":  # the new name is safe when its folder is
                _sync(self.path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        yield self.path / name

    def _sweep(self) -> None:
        """Removes what processes have left that were killed while they wrote; once, for a folder
        may hold very many files."""
        if self._swept:
            return
        self._swept = True
        for name in self.names(f"*{_TEMPORARY}"):
            *_, host, process = ["", *name.removesuffix(_TEMPORARY).rsplit(".", 2)]
            path = self.path / name
            with contextlib.suppress(OSError):
                dead = host == _host() and process.isdigit() and not _lives(int(process))
                if dead or time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()


class RemoteFolder:
    """A folder that fsspec reaches."""

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        try:
            fsspec = importlib.import_module("fsspec")
        except ImportError as error:
            raise missing("data", "fsspec", f"The address {address}") from error
        try:
            self._files: Any = fsspec.core.url_to_fs(self.address)[0]
        except ImportError as error:
            raise ImportError(f"The address {address} needs another package: {error}.") from error
        except ValueError as error:
            raise ValueError(f"The address {address} is of an unknown kind: {error}.") from error
        self._path: str = self._files._strip_protocol(self.address)
        self._whole = self.address.partition("://")[0] in _WHOLE

    def __str__(self) -> str:
        return self.address

    def make(self) -> None:
        self._files.makedirs(self._path, exist_ok=True)

    def names(self, pattern: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(fnmatch.filter((name.rpartition("/")[2] for name in found), pattern))

    def read(self, name: str) -> bytes:
        return self._files.cat_file(f"{self._path}/{name}")

    def open(self, name: str) -> Any:
        """A file for reading, of which blocks are fetched when they are wanted."""
        return self._files.open(f"{self._path}/{name}", "rb")

    def read_range(self, name: str, begin: int, size: int) -> bytes:
        """Some of the bytes of a file."""
        return self._files.cat_file(f"{self._path}/{name}", start=begin, end=begin + size)

    def below(self) -> dict[str, str]:
        """The files in it and in the folders below: name -> size, and time or checksum."""
        self._files.invalidate_cache()
        found = {}
        for path, about in self._files.find(self._path, detail=True).items():
            times = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "updated")
            stamp = next((str(about[key]) for key in times if about.get(key)), "")
            found[path.removeprefix(self._path).lstrip("/")] = f"{about.get('size')} {stamp}"
        return found

    def has(self, name: str) -> bool:
        """Whether there is a file or a folder of this name."""
        return self._files.exists(f"{self._path}/{name}")

    def fetch(self, names: Iterable[str], to: Path) -> None:
        """Copies files, those of folders below included, into a folder of this machine.

        Raises:
            ValueError: a name leads out of the folder.
        """
        for name in names:
            target = (to / name).resolve()
            if not target.is_relative_to(to.resolve()):
                raise ValueError(f"{self.address} has a file whose name leads out of it: {name!r}.")
            target.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(f"{self._path}/{name}", str(target))

    def write(self, name: str, content: bytes, *, new: bool = False) -> None:
        if new and self.has(name):
            return
        self._files.pipe_file(f"{self._path}/{name}", content)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="jaxplain-") as folder:
            local = Path(folder, name)
            yield local
            target = f"{self._path}/{name}"
            if self._whole:
                self._files.put_file(str(local), target)
            else:
                temporary = f"{target}.{_host()}.{os.getpid()}{_TEMPORARY}"
                self._files.put_file(str(local), temporary)
                self._files.mv(temporary, target)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="jaxplain-") as folder:
            local = Path(folder, name)
            self._files.get_file(f"{self._path}/{name}", str(local))
            yield local


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _lives(process: int) -> bool:
    """Whether another process of this machine has the number."""
    if process == os.getpid():
        return False  # of an earlier process, in a container where all have the same number
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
