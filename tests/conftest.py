"""Settings that every test shares; they must stand before JAX compiles and keras is imported."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest

os.environ["KERAS_BACKEND"] = "jax"

_FLAGS = [
    # Eight devices on the host, for the tests of sharded batches.
    "--xla_force_host_platform_device_count=8",
    # The workers share the cores already: a program is compiled whole, not in parts side by side.
    "--xla_cpu_parallel_codegen_split_count=1",
]
_given = os.environ.get("XLA_FLAGS", "")
_missing = [flag for flag in _FLAGS if flag.split("=")[0] not in _given]
os.environ["XLA_FLAGS"] = " ".join([_given, *_missing]).strip()

# What one worker has compiled the others load, from a folder of this run, or from one that the
# user names and keeps. Workers, and processes that tests start, inherit the environment.
_cache_of_this_run: str | None = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache_of_this_run = tempfile.mkdtemp(prefix="jaxplain-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache_of_this_run
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Half of the time is the compiler's: it spares what it can, but for the tests `fully_compiled`.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)

# What tracing makes lives long: looking through all of it often takes a twentieth of the time.
gc.set_threshold(50_000, 20, 50)

# The same examples in every run; `--hypothesis-profile=default` draws new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


# What the older Python and jax are asked, by `-m older`: how networks are traced and analysed,
# every public function (its doctest), every method, the rules, and the oracles of plain networks.
# What the others show is the same there; the parity tests try the networks, transformers among
# them, and `.ci/run lowest` tries files, data, pictures and frameworks on that Python.
OLDER = (
    "tests/core/test_axes.py",
    "tests/core/test_batched.py",
    "tests/core/test_hoist.py",
    "tests/core/test_layer_table.py",
    "tests/core/test_lazy.py",
    "tests/core/test_program.py",
    "tests/core/test_table.py",
    "tests/core/test_traced_models.py",
    "tests/core/test_tracing.py",
    "tests/core/test_transforms.py",
    "tests/explainers/test_errors.py",
    "tests/explainers/test_every_method.py",
    "tests/explainers/test_oracles.py::test_case[conv4",
    "tests/explainers/test_oracles.py::test_case[vggish",
    "tests/rules",
    "tests/test_doctests.py",
    "tests/test_packaging.py",
)


@pytest.hookimpl(tryfirst=True)  # before -m picks
def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.startswith(OLDER):
            item.add_marker("older")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each worker takes whole stretches of files, and what the others have not begun at the end.

    Tests dealt out one by one would build the networks of every file in every worker.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


def pytest_unconfigure():
    if _cache_of_this_run is not None:
        shutil.rmtree(_cache_of_this_run)


@pytest.fixture
def x64():
    """Double precision for the length of one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def fully_compiled(monkeypatch):
    """For the tests that look at the compiled program, here and in processes that they start."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty folder for converted weights; nothing is fetched into it with a bar."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("JAXPLAIN_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return folder
