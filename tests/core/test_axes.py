"""The meaning of axes: maps read out of any layout are those of the plain one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from jax import lax

import jaxplain
from jaxplain.core.spatial import Places

SIZE = (24, 16)


def places(fn, x):
    return Places(jaxplain.trace(fn, x).graph)


def weight(seed, *shape):
    return jnp.asarray(nets.normal(seed, *shape, scale=0.3), jnp.float32)


@pytest.fixture(scope="module")
def x():
    return weight(9, 3, *SIZE, 3)


def moved(x, move):
    """The maps that the analysis reads out of ``move(h)``, and ``h``, a map of 6 x 4 positions."""

    def stem(x):
        kernel = weight(0, 4, 4, 3, 8)
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (4, 4), "VALID", dimension_numbers=numbers)

    h = stem(x)
    found = places(lambda x: jnp.sin(jaxplain.tag(move(stem(x)), "here")), x)
    v = found.graph.layer("here")
    return found.layouts.get(v), move(h), h


def windows(h):
    b, height, width, c = h.shape
    return h.reshape(b, height // 2, 2, width // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)


def attended(h):
    """Heads in front, as attention has them."""
    return h.reshape(len(h), -1, 2, 4).transpose(2, 0, 3, 1)


def tokens_and_heads(h):
    """A class token in front of the patches, and heads in front of both."""
    h = jnp.concatenate([jnp.zeros((len(h), 1, 8)), h.reshape(len(h), -1, 8)], 1)
    return h.reshape(len(h), -1, 2, 4).swapaxes(1, 2)


MOVES = {
    "as it is": lambda h: h * 2,
    "channels first": lambda h: h.transpose(0, 3, 1, 2),
    "width first": lambda h: h.transpose(2, 0, 3, 1),
    "batch last": lambda h: h.transpose(1, 2, 3, 0),
    "tokens": lambda h: h.reshape(len(h), -1, 8),
    "tokens, channels first": lambda h: h.reshape(len(h), -1, 8).swapaxes(1, 2),
    "heads": attended,
    "class token": lambda h: jnp.concatenate(
        [jnp.zeros((len(h), 1, 8)), h.reshape(len(h), -1, 8)], 1
    ),
    "class token beside heads, and back": lambda h: (
        tokens_and_heads(h)
        .reshape(len(h), -1, 4)
        .reshape(len(h), 2, -1, 4)
        .swapaxes(1, 2)
        .reshape(len(h), -1, 8)
    ),
    "registers on both sides": lambda h: jnp.concatenate(
        [jnp.ones((len(h), 4, 8)), h.reshape(len(h), -1, 8), jnp.ones((len(h), 2, 8))], 1
    ),
    "class token, then dropped": lambda h: jnp.pad(
        h.reshape(len(h), -1, 8), ((0, 0), (1, 0), (0, 0))
    )[:, 1:],
    "windows": lambda h: windows(h).reshape(-1, 4, 8),
    "windows beside the batch": lambda h: windows(h).reshape(len(h), 6, 4, 8),
    "rolled windows": lambda h: windows(jnp.roll(h, (-1, 1), (1, 2))).reshape(-1, 4, 8),
    "rolled there and back": lambda h: jnp.roll(jnp.roll(h, -2, 1), 2, 1),
    "a grid within the window": lambda h: windows(h).transpose(0, 3, 4, 1, 2, 5).reshape(-1, 6, 8),
    "one image after the other": lambda h: jax.vmap(lambda one: one.reshape(-1, 8))(h),
    "mirrored": lambda h: h[:, :, ::-1],
    "turned upside down, tokens": lambda h: h[:, ::-1].reshape(len(h), -1, 8),
    "tokens backwards": lambda h: h.reshape(len(h), -1, 8)[:, ::-1],
    "mirrored windows": lambda h: windows(h[:, ::-1]).reshape(-1, 4, 8),
    "class token behind, backwards": lambda h: jnp.pad(
        h.reshape(len(h), -1, 8), ((0, 0), (2, 0), (0, 0))
    )[:, ::-1],
    "images backwards": lambda h: h[::-1].transpose(0, 3, 1, 2),
    "scanned": lambda h: lax.scan(lambda c, t: (c + t, None), h, jnp.ones((3, 1)))[0] / 4,
    "scaled by a gate": lambda h: h * jax.nn.sigmoid(h.mean((1, 2), keepdims=True)) * 0 + h,
}
#: What these do to the values; the others only move them.
SAME = {"as it is": lambda h: h * 2, "scanned": lambda h: (h + 3) / 4}


@pytest.mark.parametrize("move", MOVES)
def test_maps_are_those_of_the_plain_layout(move, x):
    layout, value, h = moved(x, MOVES[move])
    assert (layout.batch, layout.height, layout.width, layout.channels) == h.shape
    got = layout.maps(value)
    np.testing.assert_allclose(got, SAME.get(move, lambda h: h)(h), rtol=1e-6)
    # Written back, only the maps change.
    doubled = layout.edit(value, lambda maps: 2 * maps)
    np.testing.assert_allclose(layout.maps(doubled), 2 * got, rtol=1e-6)
    assert np.array_equal(layout.edit(value, lambda maps: maps), value)
    if move == "class token":
        assert str(layout) == "tokens 6x4 + 1" and np.array_equal(doubled[:, 0], value[:, 0])


def test_pixels_of_a_patch_are_channels(x):
    """Patches by a reshape, and Swin's merging: finer positions beside channels are channels."""
    for b, h, w, c, p in ((*x.shape, 4), (*x.shape, 2)):

        def patches(x, b=b, h=h, w=w, c=c, p=p):
            parts = x.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
            return jnp.sin(jaxplain.tag(parts.reshape(b, -1, p * p * c), "here"))

        found = places(patches, x)
        layout = found.layouts[found.graph.layer("here")]
        assert (layout.height, layout.width, layout.channels) == (h // p, w // p, p * p * c)
        maps = layout.maps(patches(x))
        expected = jnp.sin(x[:, ::p, ::p])
        np.testing.assert_allclose(maps[..., :c], expected, rtol=1e-5, atol=1e-6)


def merged(h):
    return jnp.concatenate([h[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)


def test_merging_and_resizing_keep_space(x):
    for change, size in (
        (merged, (12, 8)),
        (lambda h: jax.image.resize(h, (3, 10, 40, 3), "bilinear"), (10, 40)),
        (lambda h: jax.image.resize(h, (3, 48, 32, 3), "nearest"), (48, 32)),
        (lambda h: jnp.repeat(h, 2, axis=1), (48, 16)),
        (lambda h: jnp.pad(h, ((0, 0), (1, 1), (2, 2), (0, 0)), mode="reflect"), (26, 20)),
        (lambda h: jnp.pad(h, ((0, 0), (1, 0), (0, 0), (0, 0))), (25, 16)),
        (lambda h: h[:, 2:-2, 1:-1], (20, 14)),
        (lambda h: nets.max_pool(h, (3, 3), (2, 2), (1, 1)), (12, 8)),
        (lambda h: jnp.stack([h, h], -1), SIZE),
    ):
        found = places(lambda x, change=change: jnp.sin(jaxplain.tag(change(x), "here")), x)
        layout = found.layouts[found.graph.layer("here")]
        assert (layout.height, layout.width) == size


def test_attention_weights_are_no_maps(x):
    """Queries times keys have two places each: heads and tokens are not height and width."""

    def scores(x):
        q = x[:, ::4, ::4].reshape(len(x), -1, 3)
        return jaxplain.tag(q @ q.swapaxes(1, 2), "weights") @ q

    found = places(scores, x)
    assert found.graph.layer("weights") not in found.layouts


@pytest.mark.parametrize(
    "lost",
    [
        lambda x: x.reshape(len(x), -1)[:, :100],
        lambda x: jnp.sort(x, axis=1),
        lambda x: jnp.concatenate([x, x], 1),
        lambda x: jnp.concatenate([x, x[:, ::-1]], 1),
        lambda x: x + x[:, :, ::-1],
        lambda x: x[:, jnp.array(np.random.default_rng(0).permutation(24))],
        lambda x: x[jnp.array([2, 0, 1])],
        lambda x: x[:1],
        lambda x: x.sum(0, keepdims=True),
        lambda x: x.reshape(len(x), -1, 3)[:, np.random.default_rng(0).permutation(24 * 16)],
        lambda x: x.reshape(len(x), 32, 12, 3),
        lambda x: tokens_and_heads(stem(x)).reshape(len(x), -1, 4),
        lambda x: tokens_and_heads(stem(x)).swapaxes(1, 2).reshape(len(x), 5, 5, 2, 4),
    ],
    ids=[
        "a part of the pixels",
        "sorted",
        "two images",
        "an image and its mirror image, side by side",
        "the sum of both",
        "shuffled rows",
        "shuffled images",
        "one of the images",
        "the sum of all images",
        "shuffled tokens",
        "another grid",
        "heads and tokens in one axis",
        "tokens split with those in front",
    ],
)
def test_what_cannot_be_known_is_not_guessed(lost, x):
    found = places(lambda x: jnp.sin(jaxplain.tag(lost(x), "here")), x)
    assert found.graph.layer("here") not in found.layouts


def test_one_image_or_one_row_is_a_map_too():
    for shape in ((1, 8, 6, 3), (2, 1, 6, 3), (2, 8, 1, 3), (1, 1, 6, 1)):
        x = weight(1, *shape)
        found = places(lambda x: jnp.sin(jaxplain.tag(x.transpose(3, 0, 2, 1) * 2, "here")), x)
        layout = found.layouts[found.graph.layer("here")]
        np.testing.assert_allclose(layout.maps(x.transpose(3, 0, 2, 1)), x)


# -- the last layer -------------------------------------------------------------------------------


def norm(h):
    centred = h - h.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight(1, 8) + 0.1


def attention(h):
    q, k, v = (h @ weight(i, 8, 8) for i in (2, 3, 4))
    return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v


def block(h, tagged=False):
    first = norm(h)
    h = h + attention(jaxplain.tag(first, "norm1") if tagged else first)
    return h + jax.nn.gelu(norm(h) @ weight(5, 8, 8)) @ weight(6, 8, 8)


def stem(x):
    numbers = ("NHWC", "HWIO", "NHWC")
    h = lax.conv_general_dilated(
        x, weight(0, 4, 4, 3, 8), (4, 4), "SAME", dimension_numbers=numbers
    )
    return jax.nn.relu(h * weight(7, 8) + 0.1)


def tokens(x):
    return stem(x).reshape(len(x), -1, 8)


def shifted(h):
    """Attention within windows, between a roll and the roll back."""
    inner = windows(jnp.roll(jaxplain.tag(norm(h), "last"), (-1, -1), (1, 2))).reshape(-1, 4, 8)
    mixed = attention(inner).reshape(3, 3, 2, 2, 2, 8)
    return h + jnp.roll(mixed.transpose(0, 1, 3, 2, 4, 5).reshape(h.shape), (1, 1), (1, 2))


LAST = {
    "bias": lambda x: jaxplain.tag(stem(x) @ weight(1, 8, 8) + 0.5, "last").mean((1, 2)),
    "norm behind an addition": lambda x: jaxplain.tag(norm(stem(x) * 2), "last").mean((1, 2)),
    "concatenation": lambda x: jaxplain.tag(
        jnp.concatenate([stem(x), jax.nn.relu(-stem(x))], -1), "last"
    ).mean((1, 2)),
    "flattened": lambda x: jaxplain.tag(stem(x), "last").reshape(len(x), -1) @ weight(8, 192, 4),
    "score map": lambda x: jaxplain.tag(stem(x), "last") @ weight(1, 8, 4) + 0.1,
    "resized score map": lambda x: jax.image.resize(
        jaxplain.tag(stem(x), "last") @ weight(1, 8, 4) + 0.1, (3, 24, 16, 4), "bilinear"
    ),
    "class token": lambda x: norm(
        block(block(jnp.concatenate([jnp.ones((3, 1, 8)), tokens(x)], 1)), tagged="last")
    )[:, 0],
    "rolled windows": lambda x: shifted(stem(x)).mean((1, 2)),
    "attention, then a convolution": lambda x: jaxplain.tag(
        stem(block(tokens(x)).reshape(3, 6, 4, 8)[..., :3].repeat(2, 1).repeat(2, 2)), "last"
    ).mean((1, 2)),
}


@pytest.mark.parametrize("network", LAST)
def test_last_layer_is_what_its_user_would_name(network, x):
    found = places(LAST[network], x)
    wanted = found.graph.layer("norm1" if network == "class token" else "last")
    got = found.default()
    tag = found.graph.producer[wanted]
    assert got is wanted or got is tag.inputs[0], found.graph.name_of(got)
    assert found.lost(got) is None


def test_no_place_no_layer():
    x = weight(1, 2, 1, 1, 6)
    assert places(lambda x: jax.nn.relu(x.reshape(2, 6)) @ weight(2, 6, 4), x).default() is None


def test_a_last_layer_that_is_a_slice_has_a_name(x):
    def network(x):
        return jnp.pad(stem(x), ((0, 0), (1, 1), (0, 0), (0, 0)))[:, 1:-1].mean((1, 2)) @ weight(
            1, 8, 4
        )

    def plain(x):
        return stem(x).mean((1, 2)) @ weight(1, 8, 4)

    last = places(network, x).graph.last_spatial
    assert last.startswith("slice:")
    maps = jaxplain.grad_cam(network, x, 1)
    np.testing.assert_allclose(maps, jaxplain.grad_cam(plain, x, 1), rtol=1e-6)
    np.testing.assert_array_equal(maps, jaxplain.grad_cam(network, x, 1, layer=last))


def test_two_last_layers_of_which_none_leads_to_the_other(x):
    """A map of one would tell half: of a network and its mirror image, of two streams."""
    kernel, head = weight(3, 3, 8), weight(4, 8, 5)

    def stream(x):
        return jaxplain.tag(jax.nn.relu(x @ kernel), "stream").mean((1, 2)) @ head

    def both(x):
        return stream(x) + stream(x[:, :, ::-1])

    for explain in (jaxplain.grad_cam, jaxplain.excitation_backprop, jaxplain.score_cam):
        with pytest.raises(jaxplain.UnknownLayerError, match="several last layers.*'stream:1'"):
            explain(both, x, 1)
    maps = jaxplain.grad_cam(both, x, 1, layer=["stream:0", "stream:1"])
    np.testing.assert_allclose(
        maps["stream:0"], jaxplain.grad_cam(stream, x, 1), rtol=1e-4, atol=1e-6
    )
    mirrored = jaxplain.grad_cam(stream, x[:, :, ::-1], 1)[:, :, ::-1]
    np.testing.assert_allclose(maps["stream:1"], mirrored, rtol=1e-4, atol=1e-6)
    assert not any(row.default for row in jaxplain.layers(both, x))


def test_images_explained_one_by_one_within_the_network(x):
    """The last layer is one of the last image only."""
    head = weight(4, 3, 5)

    def each(x):
        return jnp.concatenate([jax.nn.relu(x[i : i + 1]).mean((1, 2)) @ head for i in (0, 1, 2)])

    for network in (each, lambda x: lax.map(lambda one: each(jnp.stack([one] * 3))[0], x)):
        with pytest.raises(jaxplain.UnknownLayerError, match="cannot be told"):
            jaxplain.grad_cam(network, x, 1)
        maps = jaxplain.gradient(network, x, 1)
        np.testing.assert_allclose(
            maps[1:2], jaxplain.gradient(network, x[jnp.array([1] * 3)], 1)[:1]
        )
