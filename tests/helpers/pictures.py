"""A small data set, a network and an explainer whose results are known, for tests of the engine."""

import filecmp

import jax.numpy as jnp
import numpy as np

import jaxplain
from jaxplain import data

SHAPES = ((4, 6), (6, 4))
HEAD = np.random.default_rng(5).normal(size=(3, 5)).astype(np.float32)


class Pictures:
    """Records with labels 0 to 3, up to three a record; some have none."""

    name, class_names = "pictures", ("a", "b", "c", "d")

    def __init__(self, count=40, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __iter__(self):
        return (self[i] for i in range(self.count))

    def __getitem__(self, index):
        if index in self.broken:
            raise data.UnreadableRecordError(f"p{index}", "it is broken")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (*SHAPES[int(rng.integers(2))], 3), dtype=np.uint8)
        return data.Record.make(image, f"p{index}", rng.integers(0, 4, index % 5))


def network(x, scale=1.0):
    return scale * (jnp.tanh(x).mean((1, 2)) @ HEAD)


def pixels_of(record):
    return record.image


def channel(fn, x, targets):
    """Maps (B, h, w) or (B, K, h, w) that depend on the input and the target alone."""
    weights = jnp.asarray(HEAD).T[targets] if targets.dtype == jnp.int32 else targets @ HEAD.T
    return jnp.einsum("bhwc,b...c->b...hw", x, weights)


def run(folder, source=None, fn=network, methods=None, **options):
    options = {
        "prepare": pixels_of,
        "to_input": lambda p: p / jnp.float32(255),
        "batch_size": 8,
        "shard_size": 16,
        **options,
    }
    return jaxplain.explain_dataset(
        fn, source or Pictures(), folder, methods or {"channel": channel}, **options
    )


def same(one, other):
    """Two folders hold the same files, bit for bit."""
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in other.iterdir()) and len(names) > 1
    assert filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])
