"""Draws a picture of every method: `python docs/draw.py` writes docs/pictures, one JPEG a method.

The photograph of a cat and a cup, EfficientNet-Lite0, the classes Egyptian cat and espresso.
"""

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


def main(names: list[str]) -> None:
    photo = Path(__file__).parents[1] / "examples" / "cat_and_cup.jpg"
    model = jaxplain.models.from_pretrained("efficientnet_lite0")
    for name in names or jaxplain.explainers.catalogue.CATALOGUE:
        print(name, flush=True)
        try:
            found = jaxplain.explain(photo, model, {name: OPTIONS.get(name)}, CLASSES)
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


if __name__ == "__main__":
    main(sys.argv[1:])
