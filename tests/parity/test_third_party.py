"""Every method on small networks that others wrote: right or refused.

``python -m benchmarks.third_party`` does it on many more.
"""

import os

import keras
import pytest

from benchmarks.third_party.matrix import rows
from jaxplain.explainers.catalogue import CATALOGUE


@pytest.fixture
def floats():
    """Keras's own settings again after the test: the networks are built in double precision."""
    from keras.src.backend.common import dtypes

    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    narrowed = dict(dtypes.BIT64_TO_BIT32_DTYPE)
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    dtypes.BIT64_TO_BIT32_DTYPE.update(narrowed)


ALL = pytest.mark.skipif(
    not os.environ.get("JAXPLAIN_ALL_NETWORKS"),
    reason="Keras is in tests/explainers/test_frameworks.py; JAXPLAIN_ALL_NETWORKS=1 runs it",
)


@pytest.mark.parametrize("name", [pytest.param("MobileNet", marks=ALL), "haiku mobilenet"])
def test_right_or_refused(x64, floats, name):
    cells = rows(name, list(CATALOGUE))
    assert not {m: c for m, c in cells.items() if c.state in ("wrong", "unchecked")}
    assert sum(c.state == "right" for c in cells.values()) > len(cells) // 2
