"""Settings that every test shares; they must stand before jax is imported."""

import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
# Eight devices on the host, for the tests of sharded batches.
_DEVICES = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()

import hypothesis
import jax
import pytest

# The same examples in every run; `--hypothesis-profile=default` draws new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


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
