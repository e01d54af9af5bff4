"""The kinds of graph cut there are: a module without JAX, for `jaxplain --help` shows them."""

from typing import Literal, get_args

Segmentation = Literal["boykov_jolly", "grabcut"]
SEGMENTATIONS: tuple[Segmentation, ...] = get_args(Segmentation)
