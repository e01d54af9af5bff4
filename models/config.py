"""What one must know of a network to feed it images and to read its output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

#: The explainers of the CAM family, which look at the last convolutional layer.
CAM_FAMILY = (
    "cam",
    "grad_cam",
    "guided_grad_cam",
    "grad_cam_plus_plus",
    "x_grad_cam",
    "layer_cam",
    "hires_cam",
    "score_cam",
    "ablation_cam",
    "eigen_cam",
    "relevance_cam",
)


def cam_layers(layer: str) -> tuple[tuple[str, str], ...]:
    """One layer for every explainer of the CAM family, for ``ModelConfig.layers``."""
    return tuple((method, layer) for method in CAM_FAMILY)


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
      layers: (explainer, layer) pairs: where each explainer looks by default.
      contrast_layer: where contrastive excitation backprop takes the difference.
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
    contrast_layer: str | None = None
    class_names: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    outputs: int = 1000
    source: str | None = None
    top1: float | None = None
    licence: str | None = None

    def layer(self, explainer: str) -> str | None:
        """The default layer for an explainer, or None where the explainer's own default is right.

        Example:
          >>> from jaxplain.models import ModelConfig
          >>> config = ModelConfig("net", 32, (0.0,), (1.0,), layers=(("grad_cam", "head"),))
          >>> config.layer("grad_cam"), config.layer("gradient")
          ('head', None)
        """
        return dict(self.layers).get(explainer)

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
