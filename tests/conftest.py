"""Settings that every test shares; they must stand before jax is imported."""

import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
_FLAGS = [
    # Eight devices on the host, for the tests of sharded batches.
    "--xla_force_host_platform_device_count=8",
    # The workers share the cores already: one part for each program, not 32 to compile side by side.
    "--xla_cpu_parallel_codegen_split_count=1",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Most of a test's time is compilation, and the older emitters need a quarter of it. From 0.11
    # on XLA has the new ones only.
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
_given = os.environ.get("XLA_FLAGS", "")
_missing = [flag for flag in _FLAGS if flag.split("=")[0] not in _given]
os.environ["XLA_FLAGS"] = " ".join([_given, *_missing]).strip()

# Programs that one worker compiled the others load: a folder of this run, or one that the user
# keeps between runs. The workers inherit the environment of the process that starts them.
_RUN_CACHE: str | None = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _RUN_CACHE = tempfile.mkdtemp(prefix="jaxplain-tests-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _RUN_CACHE
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import jax
import pytest

# The same examples in every run; `--hypothesis-profile=default` draws new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each worker takes whole stretches of files, and what the others have not begun at the end.

    Tests dealt out one by one would build the networks of every file in every worker.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


def pytest_unconfigure():
    if _RUN_CACHE is not None:
        shutil.rmtree(_RUN_CACHE)


@pytest.fixture
def x64():
    """Double precision for the length of one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def quick_compile():
    """For tests of small networks, whose time is compilation: about half of it is spared."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def fully_compiled(quick_compile):
    """For the tests of such a module that look at the compiled program."""
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", autouse=True)
def free_programs():
    """Thousands of compiled programs in one process exhaust its memory maps, and XLA crashes."""
    yield
    jax.clear_caches()


def _folder(variable: str, what: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder of {what}")
    folder = Path(value)
    if not folder.is_dir():
        pytest.skip(f"{variable} names {value}, which is not a folder of {what}")
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real weights and images (JAXPLAIN_TEST_DATA); skips where there is none."""
    return _folder("JAXPLAIN_TEST_DATA", "real weights and images")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Folder of other packages' results (JAXPLAIN_ORACLES); skips where there is none."""
    return _folder("JAXPLAIN_ORACLES", "reference results")
