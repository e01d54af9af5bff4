"""What makes two pictures similar? NAFlow's maps of embedding networks (Liao et al. 2024, III-C).

`python -m examples.similarity` trains four embeddings from scratch (the two small ones take some
two minutes of processor time, the residual ones ten each) and draws `similarity_NETWORK.jpg` of
each: two pictures, compared with themselves and with another of their class. A picture is one of
scikit-learn's handwritten digits in a random colour, size and place before a piece of
`cat_and_cup.jpg`. The networks have the objectives they were published with: instance
discrimination (Wu et al. 2018) never sees a class, only single digits in changing surroundings;
multi-similarity (Wang et al. 2019) and prototypes (Snell et al. 2017) see classes.

With the authors' weights and one's own pairs of pictures nothing is trained:

    python -m examples.similarity --weights resnet18_npid=lemniscate_resnet18.pth \\
        --images cat.jpg another_cat.jpg --images dog.jpg another_dog.jpg
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.resources
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from PIL import Image

import jaxplain
from jaxplain import models, viz
from jaxplain.models.entries import ENTRIES
from jaxplain.models.layers import BatchNorm
from jaxplain.models.resnet import l2_normalise

SIZE = 48  # of the pictures; ResNet's last features are then 2 x 2
CLASSES = 5  # the digits 0 to 4
INSTANCES = 64  # digits that instance discrimination tells apart
UNSEEN = 200  # digits kept for the sheet and its figures
LAYERS = {
    "resnet18_npid": ("layer4.1", "layer3.1", "layer2.1", "layer1.1"),
    "resnet50_npid": ("layer4.2", "layer3.5", "layer2.3", "layer1.2"),
    "resnet50_ms": ("layer4.2", "layer3.5", "layer2.3", "layer1.2"),
    "conv64f": ("conv4", "conv3", "conv2", "conv1"),
    "conv4net": ("conv4", "conv3", "conv2", "conv1"),
}


# ---- pictures -----------------------------------------------------------------------------------


class Digits:
    """Draws pictures (SIZE, SIZE, 3) in uint8 of handwritten digits before a photograph."""

    def __init__(self, seed: int):
        from sklearn.datasets import load_digits  # not among jaxplain's own requirements

        digits = load_digits(n_class=CLASSES)
        self.glyphs, self.labels = (digits.images * 255 / 16).astype(np.uint8), digits.target
        photo = importlib.resources.files("jaxplain.examples") / "cat_and_cup.jpg"
        self.photo = Image.open(str(photo)).convert("RGB")
        self.rng = np.random.default_rng(seed)

    def draw(self, glyph: int) -> np.ndarray:
        rng, (width, height) = self.rng, self.photo.size
        side = rng.integers(SIZE, 3 * SIZE)
        left, top = rng.integers(width - side), rng.integers(height - side)
        box = (left, top, left + side, top + side)
        behind = self.photo.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        behind = 0.5 * np.asarray(behind)[:, :: rng.choice([-1, 1]), rng.permutation(3)]
        side = rng.integers(SIZE // 2, 3 * SIZE // 4)
        left, top = ((SIZE - side) * rng.uniform(0.1, 0.9, 2)).astype(int)
        shape = Image.fromarray(self.glyphs[glyph]).resize((side, side), Image.Resampling.BICUBIC)
        mask = np.zeros((SIZE, SIZE, 1))
        mask[top : top + side, left : left + side, 0] = np.asarray(shape) / 255
        ink = rng.uniform(130, 255, 3)
        return (behind * (1 - mask) + ink * mask).astype(np.uint8)

    def batch(self, groups: np.ndarray, count: int, pools: Sequence[np.ndarray]):
        """`count` pictures of each group, whose digits are ``pools[group]``; and their groups."""
        labels = np.repeat(groups, count)
        return np.stack([self.draw(self.rng.choice(pools[i])) for i in labels]), labels

    def by_class(self, unseen: bool) -> list[np.ndarray]:
        part = slice(-UNSEEN, None) if unseen else slice(-UNSEEN)
        index = np.arange(len(self.labels))[part]
        return [index[self.labels[part] == i] for i in range(CLASSES)]


# ---- objectives: modules, called with embeddings and the groups that the pictures belong to -----


class InstanceDiscrimination(nnx.Module):
    """The non-parametric softmax over a memory of all instances (Wu et al. 2018, Eq. 2)."""

    groups, count = 32, 1

    def __init__(self, length: int, temperature: float = 0.1):
        self.temperature = temperature
        random = jax.random.normal(jax.random.key(0), (INSTANCES, length))
        self.memory = nnx.BatchStat(l2_normalise(random))

    def __call__(self, embedding, instance):
        memory = self.memory[...]
        logits = embedding @ memory.T / self.temperature
        new = l2_normalise(memory[instance] + jax.lax.stop_gradient(embedding))
        self.memory[...] = memory.at[instance].set(new)
        return optax.softmax_cross_entropy_with_integer_labels(logits, instance).mean()

    @staticmethod
    def pools(digits: Digits) -> list[np.ndarray]:
        return list(np.arange(INSTANCES)[:, None])


class _OfClasses(nnx.Module):
    groups, count = CLASSES, 8

    def __init__(self, length: int):
        pass

    @staticmethod
    def pools(digits: Digits) -> list[np.ndarray]:
        return digits.by_class(unseen=False)


class MultiSimilarity(_OfClasses):
    """Pairs that are harder than the easiest of the other sort, softly weighted (Wang et al. 2019,
    Eqs. 11 to 15)."""

    positive, negative, threshold, margin = 2.0, 50.0, 0.5, 0.1

    def __call__(self, embedding, label):
        s = embedding @ embedding.T
        same = label[:, None] == label
        alike, other = same & ~jnp.eye(len(label), dtype=bool), ~same
        closest = jnp.max(s, axis=1, keepdims=True, where=other, initial=-1)
        farthest = jnp.min(s, axis=1, keepdims=True, where=alike, initial=1)
        alike, other = alike & (s - self.margin < closest), other & (s + self.margin > farthest)

        def soft(scale, pairs):
            return jnp.log1p(jnp.sum(jnp.exp(scale * (s - self.threshold)), 1, where=pairs))

        return (
            soft(-self.positive, alike) / self.positive + soft(self.negative, other) / self.negative
        ).mean()


class Prototypes(_OfClasses):
    """Half of each class's pictures make its prototype, which the others must find (Snell et al.
    2017), here by the cosine, as these embeddings are compared."""

    scale = 20.0

    def __call__(self, embedding, label):
        e = l2_normalise(embedding).reshape(CLASSES, self.count, -1)
        support, query = jnp.split(e, 2, axis=1)
        logits = self.scale * query @ l2_normalise(support.mean(1)).T
        labels = jnp.broadcast_to(jnp.arange(CLASSES)[:, None], logits.shape[:2])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class Recipe(NamedTuple):
    objective: Callable
    title: str
    steps: int
    rate: float = 2e-3
    batches: int = 0  # batches on whose features the last layer alone is trained; 0 trains all


RECIPES = {
    "conv4net": Recipe(Prototypes, "Conv4Net, prototypes", 60),
    "conv64f": Recipe(Prototypes, "Conv64F, prototypes", 60),
    "resnet18_npid": Recipe(InstanceDiscrimination, "ResNet-18, instance discrimination", 120),
    "resnet50_ms": Recipe(MultiSimilarity, "ResNet-50, multi-similarity", 500, 3e-4, 40),
}


# ---- training -----------------------------------------------------------------------------------


def standardise(pixels, config: models.ModelConfig) -> jax.Array:
    mean, scale = (jnp.asarray(v, jnp.float32) for v in (config.mean, config.scale))
    return (jnp.asarray(pixels, jnp.float32) - mean) / scale


def train(name: str, recipe: Recipe, digits: Digits) -> tuple[nnx.Module, models.ModelConfig]:
    """A network of the registry, trained from random weights."""
    entry = ENTRIES[name]
    config = dataclasses.replace(entry.config, input_size=SIZE)
    network = entry.build(entry.outputs, rngs=nnx.Rngs(0))
    # The running statistics must keep up with a training of a few hundred steps.
    network.set_attributes(BatchNorm, momentum=0.9, use_running_average=False)
    objective = recipe.objective(entry.outputs)
    pools = objective.pools(digits)

    def batch() -> tuple[jax.Array, np.ndarray]:
        groups = np.sort(digits.rng.choice(len(pools), objective.groups, replace=False))
        pixels, groups = digits.batch(groups, objective.count, pools)
        return standardise(pixels, config), groups

    if recipe.batches:
        _fit_last_layer(name, network, objective, [batch() for _ in range(recipe.batches)], recipe)
    else:
        _fit(name, lambda network, x: network(x), network, objective, batch, recipe)
    network.set_attributes(BatchNorm, use_running_average=True)
    return network, config


def _fit_last_layer(name, network: nnx.Module, objective, batches: list, recipe) -> None:
    """Trains the embedding layer on standardised features of the layers below it.

    Those of random convolutions have nearly one direction, from which nothing would be learned.
    """
    features = nnx.jit(lambda network, x: jaxplain.capture(network, ["avgpool"])(x)[1]["avgpool"])
    network.set_attributes(BatchNorm, momentum=0.0)
    features(network, batches[0][0])  # takes this batch's statistics
    network.set_attributes(BatchNorm, use_running_average=True)
    known = [(features(network, x), groups) for x, groups in batches]
    rows = jnp.concatenate([x for x, _ in known])
    mean, deviation = rows.mean(0), rows.std(0) + 1e-6
    known = itertools.cycle([((x - mean) / deviation, groups) for x, groups in known])
    layer = network.fc
    _fit(name, lambda layer, x: l2_normalise(layer(x)), layer, objective, known.__next__, recipe)
    layer.kernel[...] /= deviation[:, None]
    layer.bias[...] -= mean @ layer.kernel[...]


def _fit(name, call: Callable, module: nnx.Module, objective, batch: Callable, recipe) -> None:
    rate = optax.warmup_cosine_decay_schedule(0, recipe.rate, recipe.steps // 10, recipe.steps)
    optimizer = nnx.Optimizer(module, optax.adamw(rate, weight_decay=1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(module, objective, optimizer, x, groups):
        def loss(module, objective):
            return objective(call(module, x), groups)

        value, gradient = nnx.value_and_grad(loss)(module, objective)
        optimizer.update(module, gradient)
        return value

    values = []
    for i in range(recipe.steps):
        values.append(step(module, objective, optimizer, *batch()))
        if i % 10 == 9:
            print(
                f"{name}: step {i + 1} of {recipe.steps}, "
                f"loss {np.mean(jax.device_get(values[-10:])):.3f}",
                flush=True,
            )


@nnx.jit
def embed(network: nnx.Module, x: jax.Array) -> jax.Array:
    return l2_normalise(network(x))


def examine(network: nnx.Module, config: models.ModelConfig, digits: Digits) -> str:
    """How the embedding does on digits that it was not trained on."""
    pixels, labels = digits.batch(np.arange(CLASSES), 20, digits.by_class(unseen=True))
    e = embed(network, standardise(pixels, config))
    s = np.asarray(e @ e.T)
    same = labels[:, None] == labels
    alone = ~np.eye(len(labels), dtype=bool)
    nearest = labels[np.where(alone, s, -2).argmax(1)]
    return (
        f"on digits it has not seen the nearest picture is of the same class in "
        f"{(nearest == labels).mean():.0%} of cases (chance 20%), the mean cosine "
        f"{s[same & alone].mean():.2f} within a class and {s[~same].mean():.2f} between two"
    )


# ---- the sheet ----------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """What is drawn of one network.

    Attributes:
        title: stands above it.
        layers: the layers, last to first.
        pairs: of each row the picture and the other one, uint8 (H, W, 3).
        maps: layer -> (2 P, h, w): of every picture's comparison with itself and with the other.
        cosines: (P,), of the two pictures.
    """

    title: str
    layers: Sequence[str]
    pairs: Sequence[tuple[np.ndarray, np.ndarray]]
    maps: dict[str, np.ndarray]
    cosines: np.ndarray


def compare(title, network, config, layers, pairs) -> Comparison:
    x = jnp.concatenate([models.preprocess(p, config, crop=False) for pair in pairs for p in pair])
    picture, other = jnp.repeat(x[::2], 2, axis=0), x  # a, a, b, b
    reference = other.at[::2].set(x[::2])  # a, a', b, b'
    solver = jaxplain.LeastSquares(tolerance=1e-2)
    maps = jaxplain.naflow_similarity(network, picture, reference, layer=layers, solver=solver)
    e = embed(network, x)
    cosines = (e[::2] * e[1::2]).sum(-1)
    return Comparison(title, layers, pairs, jax.device_get(maps), np.asarray(cosines))


def sheet(part: Comparison, cell: float = 0.9) -> Figure:
    """A row for each picture: against itself on the left, against the other on the right."""
    columns, count = 2 + 2 * len(part.layers), len(part.pairs)
    height = 1.22 * cell * count + 0.45
    figure = Figure((cell * columns, height))
    figure.suptitle(part.title, x=0.01, ha="left", fontsize=7)
    axes = figure.subplots(count, columns, squeeze=False)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.55 / height, wspace=0.06, hspace=0.2)
    for i, (picture, other) in enumerate(part.pairs):
        cells = []
        for k, (title, image) in enumerate(
            (("against itself", picture), (f"against: cos {part.cosines[i]:.2f}", other))
        ):
            maps = {n: part.maps[n][2 * i + k] for n in reversed(part.layers)}
            cells += [(title, image), *viz.flow_row(picture, maps).items()]
        for axis, (title, image) in zip(axes[i], cells, strict=True):
            axis.imshow(image, interpolation="bilinear")
            axis.set_title(title, fontsize=6, pad=2)
            axis.set_axis_off()
    return figure


def trained(name: str) -> Comparison:
    digits, recipe = Digits(seed=0), RECIPES[name]
    start = time.process_time()
    network, config = train(name, recipe, digits)
    seconds = time.process_time() - start
    digits = Digits(seed=1)
    found = examine(network, config, digits)
    pools = digits.by_class(unseen=True)
    pairs = [tuple(digits.draw(pools[label][i]) for i in (0, 1)) for label in (2, 4)]
    how = "the last layer, on random convolutions" if recipe.batches else "all of it, from scratch"
    title = (
        f"{recipe.title} ({name}): trained for this picture on scikit-learn's digits, {how}, "
        f"{recipe.steps} steps in {seconds:.0f} s of processor time;\n"
        f"{found}"
    )
    print(title, flush=True)
    return compare(title, network, config, LAYERS[name], pairs)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NETWORK=FILE",
        help="draw this network with the authors' weights; needs --images",
    )
    parser.add_argument(
        "--images",
        action="append",
        nargs=2,
        metavar=("PICTURE", "OTHER"),
        help="two pictures to compare",
    )
    parser.add_argument("--train", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="where to write the pictures; default: here",
    )
    options = parser.parse_args(arguments)
    if bool(options.weights) != bool(options.images):
        parser.error("--weights and --images belong together: give both, or neither to train")
    if options.weights:
        pairs = [
            tuple(np.asarray(Image.open(p).convert("RGB")) for p in pair) for pair in options.images
        ]
        for name, _, file in (text.partition("=") for text in options.weights):
            if name not in LAYERS:
                parser.error(f"--weights takes {', '.join(LAYERS)} and =FILE, not {name!r}")
            network = models.from_pretrained(file, network=name)
            draw(compare(name, network, network.config, LAYERS[name], pairs), name, options.out)
    else:
        for name in options.train:
            draw(trained(name), name, options.out)


def draw(part: Comparison, name: str, folder: Path) -> None:
    viz.save(sheet(part), folder / f"similarity_{name}.jpg", dpi=130)


if __name__ == "__main__":
    main()
