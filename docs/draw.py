"""Draws a picture of every method: `python docs/draw.py` writes docs/pictures, one JPEG a method.

The photograph of a cat and a cup, EfficientNet-Lite0, the classes Egyptian cat and espresso. The
methods for networks with attention are drawn on vit_small_patch14_importance, which lies in the
folder weights of `JAXPLAIN_TEST_DATA`: what made two places of its importance map bright.
"""

import functools
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import jaxplain
from jaxplain import viz
from jaxplain.explanation import drawing

FOLDER = Path(__file__).parent / "pictures"
CLASSES = ("Egyptian cat", "espresso")
#: What does not need to be asked for at many steps to be shown.
OPTIONS = {"naflow": {"layer": ["head", "blocks.4.2", "blocks.2.1"]}}


TRANSFORMER = "weights/vit_small_patch14_importance.safetensors"
#: Row and column in pixels of its input: on the cat's head, and on the cup.
PLACES = ("60,70", "150,140")


def main(names: list[str]) -> None:
    photo = Path(__file__).parents[1] / "examples" / "cat_and_cup.jpg"
    catalogue = jaxplain.explainers.catalogue.CATALOGUE
    for name in names or catalogue:
        print(name, flush=True)
        if catalogue[name].attention:
            model, asked = Path(os.environ["JAXPLAIN_TEST_DATA"]) / TRANSFORMER, PLACES
        else:
            model, asked = "efficientnet_lite0", CLASSES
        try:
            found = jaxplain.explain(photo, network(str(model)), {name: OPTIONS.get(name)}, asked)
        except ValueError as error:  # what needs more than a picture
            print(f"  left out: {error}")
            continue
        shown = drawing.thumbnail(found.image)
        rows = drawing.rows_of(found, shown)
        pictures = [shown / 255, *(one for row in rows.values() for one in row.values())]
        strip = np.concatenate([viz.overlays.as_float_image(p) for p in pictures[:4]], 1)
        image = Image.fromarray(np.rint(255 * strip).astype(np.uint8))
        image.thumbnail((896, 224), Image.Resampling.LANCZOS)
        image.save(FOLDER / f"{name}.jpg", quality=85)


@functools.cache
def network(name: str):
    return jaxplain.models.from_pretrained(name)


if __name__ == "__main__":
    main(sys.argv[1:])
