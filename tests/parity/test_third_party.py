"""Every method on a few networks that others wrote: right or refused.

All of them are in ``benchmarks/third_party.md``, by ``python -m benchmarks.third_party``.
"""

import jax
import pytest

pytest.importorskip("keras")

from benchmarks.third_party.matrix import rows  # noqa: E402 (where Keras is)
from jaxplain.explainers.catalogue import CATALOGUE  # noqa: E402

#: Compiling the other methods takes most of the time, and they share their code with these.
QUICK = [m for m in CATALOGUE if m not in ("score-cam", "smooth-grad", "rise", "x-grad-cam")]


@pytest.fixture
def double_precision():
    import keras

    before, kept = jax.config.jax_disable_most_optimizations, keras.backend.floatx()
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", before)
    keras.backend.set_floatx(kept)


@pytest.mark.parametrize("name", ["MobileNet"])
def test_right_or_refused(double_precision, name):
    cells = rows(name, QUICK)
    failed = {m: c for m, c in cells.items() if c.state in ("wrong", "unchecked")}
    assert not failed
    assert sum(c.state == "right" for c in cells.values()) > len(cells) // 2
