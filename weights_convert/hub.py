"""Files from the Hugging Face hub, checked against the hub's own checksum."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jaxplain.core.extras import missing
from jaxplain.weights_convert.errors import DownloadError
from jaxplain.weights_convert.store import file_sha256


def download(repo: str, file: str = "model.safetensors") -> Path:
    """Fetches a file through ``huggingface_hub``, unless its cache holds it; checks its SHA-256.

    The package shows a progress bar, and continues downloads that broke off. ``HF_HOME``,
    ``HF_ENDPOINT`` and ``HF_TOKEN`` work as they always do.

    Args:
        repo: the repository, as ``owner/name``.
        file: the file in it.

    Returns:
        the path in the cache of ``huggingface_hub``.

    Raises:
        DownloadError: there is no such file, or no connection, or the checksum is another.
        ImportError: the package huggingface-hub is not installed.
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise missing("zoo", "huggingface-hub", "Fetching weights") from error
    url = hub.hf_hub_url(repo, file, endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        # Asked first, for unlike a download this gives up at once where there is no connection.
        metadata = hub.get_hf_file_metadata(url)
        path = Path(
            hub.hf_hub_download(
                repo, file, revision=metadata.commit_hash, endpoint=os.environ.get("HF_ENDPOINT")
            )
        )
        sha256 = metadata.etag or ""
    except Exception as error:  # of the hub, of its HTTP client, of the file system
        cached = hub.try_to_load_from_cache(repo, file)
        if not isinstance(cached, str):
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DownloadError(f"{url} cannot be downloaded ({reason:.200})") from error
        path = Path(cached)
        sha256 = os.path.basename(os.path.realpath(path))  # the cache names large files by it
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            return path  # a cache without links; it was checked when it was downloaded
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise DownloadError(f"{url} has no SHA-256 on the hub, so it cannot be checked")
    found = file_sha256(path)
    if found != sha256:
        os.remove(os.path.realpath(path))
        raise DownloadError(
            f"{url} arrived damaged (its SHA-256 is {found[:12]}..., the hub says "
            f"{sha256[:12]}...); the file was removed, so try again"
        )
    return path
