"""Keep what XLA has compiled, so that the next command need not compile it again."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


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
    folder = cache_dir() / "programs"
    try:
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
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
