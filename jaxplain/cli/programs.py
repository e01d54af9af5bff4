"""Keep what XLA has compiled, so that the next command need not compile it again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path


def _machine() -> str:
    """Programs are for one kind of processor, and a home folder may serve several machines."""
    about = f"{platform.machine()} {platform.processor()}"
    with contextlib.suppress(OSError):  # there is none but on Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about += "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    return hashlib.sha256(about.encode()).hexdigest()[:12]


@contextlib.contextmanager
def kept(wanted: bool = True) -> Iterator[None]:
    """While it lasts, compiled programs are kept in the cache folder, and read from there.

    A folder that the user gave JAX itself (``JAX_COMPILATION_CACHE_DIR``) stays. One that cannot
    be written is a notice, and nothing is kept.

    Args:
        wanted: False keeps nothing here.
    """
    import jax

    from jaxplain.weights_convert import cache_dir

    if not wanted or jax.config.jax_compilation_cache_dir:
        yield
        return
    try:
        folder = cache_dir() / "programs" / _machine()
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"no permission to write in {str(folder)!r}")
    except OSError as error:
        print(f"jaxplain: compiled programs are not kept: {error}", file=sys.stderr)
        yield
        return
    settings = {
        "jax_compilation_cache_dir": str(folder),
        # Most programs of a small network take less than the second that JAX asks for.
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_compilation_cache_max_size": 2**29,  # the oldest go
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
