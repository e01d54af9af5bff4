"""How much of each method's saliency falls on the animal that it is asked about.

`python -m benchmarks.cued_animal` prints the table for BVLC GoogLeNet on pictures of two animals
(Fig. 4 of Cao et al. 2015, *Look and think twice*, and the cat and dog of the Grad-CAM paper); it
reads weights and pictures from the folder `JAXPLAIN_TEST_DATA`. `--draw FILE` draws the maps.

The share is the sum of a map's positive part inside the cued animal's box over that in the whole
picture; "other" is the mean share inside the other animal's box alone. "box" are the shares of a
map that is the same everywhere.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain


@dataclass(frozen=True)
class Animal:
    """What is asked for: a class of ImageNet, and its box by hand: left, top, right, bottom."""

    name: str
    label: int
    box: tuple[int, int, int, int]


#: Pictures of `images/demo` with their size in pixels (width, height) and two animals each.
PICTURES: dict[str, tuple[tuple[int, int], tuple[Animal, Animal]]] = {
    "feedbackcnn_elephant_zebra_1.jpg": (
        (325, 370),
        (Animal("elephant", 386, (14, 22, 222, 208)), Animal("zebra", 340, (140, 158, 301, 340))),
    ),
    "feedbackcnn_elephant_zebra_2.jpg": (
        (640, 512),
        (Animal("elephant", 386, (296, 40, 640, 458)), Animal("zebra", 340, (0, 200, 215, 402))),
    ),
    "gradcam_cat_dog.png": (
        (224, 224),
        (Animal("dog", 243, (78, 13, 165, 148)), Animal("cat", 282, (45, 119, 200, 224))),
    ),
}

#: Maps (B, K, h, w) of a network, images (B, H, W, C) and classes (B, K).
METHODS: dict[str, Callable] = {
    "Gradient": jaxplain.gradient,
    "DeconvNet (Zeiler)": jaxplain.deconvnet,
    "DeconvNet (guided)": jaxplain.guided_backprop,
    "MWP": lambda fn, x, t: jaxplain.excitation_backprop(fn, x, t, layer="pool2"),
    "c-MWP": lambda fn, x, t: jaxplain.excitation_backprop(
        fn, x, t, layer="pool2", contrastive=True
    ),
    "Feedback": jaxplain.feedback,
    "Feedback (soft)": lambda fn, x, t: jaxplain.feedback(fn, x, t, mode="soft", step_size=1000.0),
}


def load(folder: Path, model) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """Images (B, H, W, 3), the two classes (B, 2), and the animals' boxes as masks (B, 2, H, W).

    A picture is stretched to the network's size whole, as in the paper.
    """
    from PIL import Image

    images, labels, masks = [], [], []
    size = model.config.input_size
    for name, ((width, height), animals) in PICTURES.items():
        with Image.open(folder / "images" / "demo" / name) as file:
            picture = file.convert("RGB")
        if picture.size != (width, height):
            raise ValueError(
                f"{name} must have {width} x {height} pixels, as its boxes, not "
                f"{picture.size[0]} x {picture.size[1]}"
            )
        images.append(jaxplain.models.preprocess(picture, model.config, crop=False)[0])
        labels.append([animal.label for animal in animals])
        masks.append([_mask(animal.box, width, height, size) for animal in animals])
    return jnp.stack(images), jnp.asarray(labels), np.array(masks)


def _mask(box: tuple[int, int, int, int], width: int, height: int, size: int) -> np.ndarray:
    left, top, right, bottom = box
    x, y = (np.arange(size) + 0.5) * width / size, (np.arange(size) + 0.5) * height / size
    return ((top <= y) & (y < bottom))[:, None] & ((left <= x) & (x < right))


def positive_maps(method: Callable, model, x: jax.Array, labels: jax.Array) -> np.ndarray:
    """The positive part of the maps, (B, 2, H, W): those of a layer upsampled bicubically."""
    maps = method(model, x, labels)
    if maps.shape[2:] != x.shape[1:3]:
        maps = jax.image.resize(maps, (*maps.shape[:2], *x.shape[1:3]), "bicubic")
    return np.maximum(np.asarray(maps, np.float64), 0)


def shares(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The share of each map (B, 2, H, W) that falls on its own mask, (B, 2)."""
    return (maps * masks).sum((2, 3)) / maps.sum((2, 3))


def others(masks: np.ndarray) -> np.ndarray:
    """The pixels of the other animal's box that are not in the cued one's."""
    return masks[:, ::-1] & ~masks


def googlenet(folder: Path):
    """BVLC GoogLeNet with the weights of the Caffe Model Zoo."""
    return jaxplain.models.from_pretrained(
        folder / "weights" / "bvlc_googlenet.caffemodel", network="bvlc_googlenet"
    )


def _draw(path: str, folder: Path, maps: Mapping[str, np.ndarray]) -> None:
    from PIL import Image

    from jaxplain import viz

    strips = []  # a panel each, for each has its own picture
    with tempfile.TemporaryDirectory() as temporary:
        for i, (name, (_, animals)) in enumerate(PICTURES.items()):
            with Image.open(folder / "images" / "demo" / name) as file:
                picture = np.asarray(file.convert("RGB").resize((224, 224)))
            for k, animal in enumerate(animals):
                overlays = {
                    method: viz.overlay(
                        picture, m[i, k].astype(np.float32), "heat" if "MWP" in method else "gray"
                    )
                    for method, m in maps.items()
                }
                strip = Path(temporary, f"{i}{k}.png")
                viz.save(viz.panel(picture, {animal.name: overlays}, max_columns=len(maps)), strip)
                strips.append(Image.open(strip).convert("RGB"))
    sheet = Image.new("RGB", (strips[0].width, sum(s.height for s in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    sheet.thumbnail((900, 1200))
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draw", metavar="FILE", help="draw the maps into this picture")
    arguments = parser.parse_args()
    value = os.environ.get("JAXPLAIN_TEST_DATA")
    if not value:
        parser.error("set JAXPLAIN_TEST_DATA to the folder of real weights and images")
    folder = Path(value)
    model = googlenet(folder)
    x, labels, masks = load(folder, model)
    titles = [
        f"{animal.name} {i + 1}"
        for i, (_, animals) in enumerate(PICTURES.values())
        for animal in animals
    ]
    print(f"{'per cent':20}" + "".join(f"{title:>12}" for title in [*titles, "mean", "other"]))

    def show(name: str, maps: np.ndarray) -> None:
        row = shares(maps, masks)
        values = [*row.ravel(), row.mean(), shares(maps, others(masks)).mean()]
        print(f"{name:20}" + "".join(f"{100 * v:12.1f}" for v in values), flush=True)

    show("box", np.ones(masks.shape))
    maps = {}
    for name, method in METHODS.items():
        maps[name] = positive_maps(method, model, x, labels)
        show(name, maps[name])
    if arguments.draw:
        _draw(arguments.draw, folder, maps)


if __name__ == "__main__":
    main()
