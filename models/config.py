"""What one must know of a network to feed it images and to read its output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

#: The kinds of layer at which methods look by default; the catalogue of methods names them.
#: ``excitation``: where the paper on Excitation Backprop takes its maps, in the network's middle.
#: ``winner``: the same for one winner on each layer, which may end above it.
#: ``last``: the last convolutional layer, with what acts on it elementwise.
LAYER_KINDS = ("excitation", "winner", "last")


def default_layers(
    excitation: str, last: str, *, winner: str | None = None
) -> tuple[tuple[str, str], ...]:
    """One layer of each kind, for ``ModelConfig.layers``."""
    layers = (excitation, excitation if winner is None else winner, last)
    return tuple(zip(LAYER_KINDS, layers, strict=True))


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The description of a network; it is hashable, and is kept as JSON beside the weights.

    Attributes:
      name: the network's name in the registry.
      input_size: height and width of the images.
      mean, scale: the network sees ``(pixel - mean) / scale``, pixels being 0 to 255; one
        value for all channels or one each (RGB).
      crop_fraction: the central square's part of the short side, before resizing (224 / 256 where
        the short side is resized to 256, and the centre of 224 cut out).
      interpolation: how images are resized: ``bicubic`` or ``bilinear``.
      layers: (kind, layer) pairs, see ``LAYER_KINDS``: where explainers look by default.
      class_names: one each logit; () where unknown, and for embeddings.
      outputs: the number of logits, or the length of the embedding.
      source: whose weights these are, as a name map calls it; None for no weights.
      top1: published accuracy of the pretrained weights, in per cent; None where unknown.
      licence: licence of the pretrained weights; None where unknown.
    """

    name: str
    input_size: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    crop_fraction: float = 0.875
    interpolation: str = "bicubic"
    layers: tuple[tuple[str, str], ...] = ()
    class_names: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    outputs: int = 1000
    source: str | None = None
    top1: float | None = None
    licence: str | None = None

    def layer(self, kind: str) -> str | None:
        """The layer of a kind, or None where an explainer's own default is right.

        Raises:
          ValueError: there is no such kind.

        Example:
          >>> from jaxplain.models import ModelConfig
          >>> config = ModelConfig("net", 32, (0.0,), (1.0,), layers=(("last", "head"),))
          >>> config.layer("last"), config.layer("excitation")
          ('head', None)
        """
        if kind not in LAYER_KINDS:
            raise ValueError(f"There is no kind of layer {kind!r}; use {', '.join(LAYER_KINDS)}.")
        return dict(self.layers).get(kind)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self) | {"layers": dict(self.layers)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelConfig:
        """The inverse of ``to_json``; what it does not know is left aside.

        Raises:
          KeyError, TypeError: a field is missing or of the wrong type.
        """
        known = {f.name: data[f.name] for f in dataclasses.fields(cls)}
        for field in ("mean", "scale", "class_names"):
            known[field] = tuple(known[field])
        known["layers"] = tuple(known["layers"].items())
        return cls(**known)
