"""Every method on a small network of Keras: right or refused.

``python -m benchmarks.third_party`` does it on more networks, and on Haiku's.
"""

import keras
import pytest

from benchmarks.third_party.matrix import rows
from jaxplain.explainers.catalogue import CATALOGUE

#: Left to the command, for many forward passes.
LONG = ("score-cam", "rise")


@pytest.fixture
def floats():
    """Keras's own settings again after the test: the networks are built in double precision."""
    floatx, policy = keras.backend.floatx(), keras.config.dtype_policy()
    yield
    keras.backend.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("name", ["MobileNet"])
def test_right_or_refused(x64, quick_compile, floats, name):
    cells = rows(name, [method for method in CATALOGUE if method not in LONG])
    assert not {m: c for m, c in cells.items() if c.state in ("wrong", "unchecked")}
    assert sum(c.state == "right" for c in cells.values()) > len(cells) // 2
