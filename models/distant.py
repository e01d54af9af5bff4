"""Weights at an address such as ``gs://bucket/weights.safetensors``, which fsspec reaches."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxplain.core.places import LocalFolder, RemoteFolder, folder_at
from jaxplain.models.conversion import names_beside
from jaxplain.weights_convert.errors import CheckpointError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def fetched(address: str, network: str | None) -> Iterator[Path]:
    """A copy of a file of weights, or of a folder, that lasts as long as the context.

    What lies beside a file comes along where a network's tensors are in two.

    Raises:
        FileNotFoundError: there is nothing at the address.
        ImportError: the address needs a package that is not installed.
        weights_convert.CheckpointError: raised within, and tells the address in place of the copy.
    """
    above, _, name = address.rstrip("/").rpartition("/")
    place = folder_at(above)
    if isinstance(place, LocalFolder):  # file://
        yield place.path / name
        return
    assert isinstance(place, RemoteFolder)
    with tempfile.TemporaryDirectory(prefix="jaxplain-") as temporary:
        copy = Path(temporary, name)
        _log.info("fetching %s ...", address)
        if place.has(name):
            inside = RemoteFolder(address)
            if below := [
                found for found in inside.below() if found
            ]:  # a file is below itself as ''
                inside.fetch(below, copy)
            else:
                beside = [other for other in names_beside(name, network)[0] if place.has(other)]
                place.fetch([name, *beside], Path(temporary))
        else:
            raise FileNotFoundError(f"There is no file or folder {address}.")
        try:
            yield copy
        except CheckpointError as error:
            error.args = (str(error).replace(str(copy), address),)
            raise
