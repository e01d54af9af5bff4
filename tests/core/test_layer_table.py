"""The table of layers: what axes mean, what is shown, what is marked, whose lines are shown."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import nets
import pytest
from flax import nnx
from jax import lax

import jaxplain


class ChannelsFirst(nnx.Module):
    """Convolutions on (B, C, H, W), a pool, and a dense layer."""

    def __init__(self):
        self.stem = Convolution(3, 6, 2)
        self.body = Convolution(6, 8, 1)
        self.head = nnx.Linear(8, 4, rngs=nnx.Rngs(2))

    def __call__(self, x):
        x = jax.nn.relu(self.stem(x.transpose(0, 3, 1, 2)))
        return self.head(jax.nn.relu(self.body(x)).mean((2, 3)))


class Convolution(nnx.Module):
    def __init__(self, low, high, stride):
        self.kernel = nnx.Param(nets.normal(low, high, low, 3, 3, scale=0.3).astype("float32"))
        self.stride = stride

    def __call__(self, x):
        return lax.conv_general_dilated(x, self.kernel[...], (self.stride,) * 2, "SAME")


class Tokens(nnx.Module):
    """Patches, a class token in front, a dense layer with a residual connection."""

    def __init__(self):
        self.patches = nnx.Conv(3, 8, (4, 4), (4, 4), rngs=nnx.Rngs(0))
        self.mix = nnx.Linear(8, 8, rngs=nnx.Rngs(1))
        self.head = nnx.Linear(8, 4, rngs=nnx.Rngs(2))
        self.token = nnx.Param(jnp.ones((1, 1, 8)))

    def __call__(self, x):
        x = self.patches(x)
        x = x.reshape(len(x), -1, 8)
        x = jnp.concatenate([jnp.broadcast_to(self.token[...], (len(x), 1, 8)), x], 1)
        return self.head((x + self.mix(x)).mean(1))


def rows(fn, x, **options):
    return {row.name: row for row in jaxplain.layers(fn, x, **options)}


@pytest.mark.parametrize("batch", [1, 2])
def test_meanings_of_a_channels_first_network(batch):
    found = rows(ChannelsFirst(), nets.images(0, batch).astype("float32"))
    assert {n: r.meaning for n, r in found.items() if n in ("input", "stem", "body")} == {
        "input": "B H W C",
        "stem": "B C H W",
        "body": "B C H W",
    }
    assert "head" not in found and not any(name.startswith("conv:") for name in found)
    assert found["body"].shape == (batch, 8, 4, 4)


def test_meanings_of_tokens():
    found = rows(Tokens(), nets.images(0, size=16).astype("float32"))
    assert found["patches"].meaning == "B H W C"
    assert found["mix"].meaning == "tokens 4x4 + 1"
    whole = rows(Tokens(), nets.images(0, size=16).astype("float32"), all=True)
    assert set(found) < set(whole) and whole["head"].meaning == "B C"


def test_the_default_is_marked_and_shown_whatever_its_name_is():
    x = nets.images(0).astype("float32")
    net = ChannelsFirst()
    default = [row.name for row in jaxplain.layers(net, x) if row.default]
    assert default == ["relu:1"]
    assert rows(net, x)["relu:1"].default == ("last",)
    maps = jaxplain.grad_cam(net, x, 1)
    assert (maps == jaxplain.grad_cam(net, x, 1, layer="relu:1")).all()
    marked = rows(net, x, defaults={"one": "stem", "other": "stem"})
    assert marked["stem"].default == ("one", "other") and "relu:1" not in marked


def test_a_plain_function_shows_whatever_has_a_place():
    x = nets.images(0, size=16).astype("float32")
    found = rows(lambda x: jnp.tanh(jax.nn.relu(x)).mean((1, 2)), x)
    assert list(found) == ["input", "relu:0", "tanh:0"]


def test_what_may_have_a_place_is_shown_as_unknown():
    order = jnp.arange(16)[::-1]

    def fn(x):
        tokens = x.reshape(len(x), 16, 3)
        return jaxplain.tag(tokens[:, order, :], "shuffled").mean(1)

    assert "?" in rows(fn, nets.images(0, size=4).astype("float32"))["shuffled"].meaning


def test_lines_are_the_users_own():
    x = nets.images(0, size=16).astype("float32")
    found = rows(Tokens(), x, all=True)
    first = inspect.getsourcelines(Tokens)[1]
    last = first + len(inspect.getsource(Tokens).splitlines())
    for name in ("patches", "mix", "head"):  # Flax made the operation; the line is that of the call
        file, line = found[name].source.split(" ")[0].rsplit(":", 1)
        assert file == __file__ and first < int(line) < last
    # What Flax does alone has no line of the user's, and the caller's line is no network's.
    library = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
    assert {row.source for row in jaxplain.layers(library, x, all=True)} == {""}


def test_messages_fall_back_on_the_packages_line():
    library = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
    op = jaxplain.trace(library, nets.images(0).astype("float32")).graph.ops[0]
    assert op.source == "" and "site-packages" in op.place and "flax" in op.place
