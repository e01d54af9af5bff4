"""The function `jaxplain.explain`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxplain.explainers.catalogue import DEFAULT
from jaxplain.explanation import computing, outputs
from jaxplain.explanation.choice import Choice, choices_of
from jaxplain.explanation.files import predictions_table
from jaxplain.explanation.result import Explanation

if TYPE_CHECKING:
    import jax

    from jaxplain.models import ModelConfig

_SHOWN = 5  # predictions


def explain(
    image: Any,
    model: Any = "efficientnet_lite0",
    methods: str | Sequence[str] | Mapping[str, Any] = DEFAULT,
    targets: Any = None,
    *,
    layer: str | Sequence[str] | None = None,
    preprocess: Callable[[np.ndarray], Any] | None = None,
    config: ModelConfig | None = None,
    class_names: Sequence[str] | None = None,
    fit: Any = None,
) -> Any:
    """Explains a picture by several methods: what ``jaxplain explain`` does, in Python.

    Args:
        image: a file, a uint8 array ``(H, W, 3)`` or a Pillow image; or a float array ``(H, W, C)``
            or ``(1, H, W, C)``, which is the network's input as it is. A list of these gives a list
            back, and PFV's colours then mean the same in all of them.
        model: what `jaxplain.models.from_pretrained` takes: a name, file or folder; or any network
            that explainers take, images ``(B, H, W, C)`` to scores ``(B, N)``.
        methods: names of the catalogue; ``"all"`` takes every method, and those that the network
            does not allow are told in ``left_out``. As a mapping, name -> options of the method's
            function (``{"lrp": {"composite": "epsilon_plus"}}``), or -> a function of one's own,
            ``(network, x, targets)`` to maps ``(1, K, h, w)``.
        targets: a class, by name or index, or a list of them; ``"topK"`` for the K most probable;
            by default the two most probable. Of an embedding, the index of a number, by default
            the embedding as a whole; of a score map a place ``(row, column)``, by default the
            brightest.
        layer: of all methods; several names give several maps of each.
        preprocess: a picture uint8 ``(H, W, 3)`` to the network's input ``(h, w, C)`` or ``(1, h,
            w, C)``; by default what the network's ``config`` says.
        config: a `jaxplain.models.ModelConfig`, for a network that does not have one as its
            attribute ``config``.
        class_names: one each score; by default those of the config.
        fit: what `jaxplain.fit_cam` found, for the method ``fitted-cam``.

    Returns:
        An `Explanation`; for a list of images a list of them.

    Raises:
        ValueError: an unknown method, option, class or layer; a picture for a network of which it
            is not known how it takes pictures; or a method that the network does not allow.
        UnsupportedOperationError: an operation that a method must handle and cannot.
        ImportError: an extra must be installed; the message says which.

    Example:
        >>> import jax, jaxplain
        >>> weight = jax.random.normal(jax.random.key(0), (3, 4))
        >>> fn = lambda x: jax.nn.relu(x).mean((1, 2)) @ weight
        >>> x = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3))
        >>> found = jaxplain.explain(x, fn, ["gradient", "occlusion"], [0, 3])
        >>> {name: maps.shape for name, maps in found.maps.items()}
        {'gradient': (2, 8, 8), 'occlusion': (2, 8, 8)}
        >>> found.class_names, found.scores.shape
        (('class 0', 'class 3'), (2,))
    """
    several = isinstance(image, list | tuple)
    choices, every = choices_of(methods, layer)
    images = list(image) if several else [image]
    if not images:
        raise ValueError("no image is given")
    network, config = load(model, config)
    subjects = []
    for one, name in zip(images, _names(images), strict=True):
        shown, x = input_of(one, config, preprocess)
        subject, _ = subject_of(
            network, shown, x, targets, name=name, config=config, names=class_names
        )
        subjects.append(subject)

    def fitted(_: Choice) -> Any:
        if fit is None:
            raise ValueError("fitted-cam needs fit=, which jaxplain.fit_cam makes")
        return fit

    def refused(choice: Choice, error: Exception) -> None:
        if not every:
            raise error
        for subject in subjects:
            subject.about.left_out[choice.title] = " ".join(str(error).split())

    computing.fill(choices, network, config, subjects, fit=fitted, refused=refused)
    found = [subject.about for subject in subjects]
    return found if several else found[0]


def load(model: Any, config: ModelConfig | None = None) -> tuple[Any, ModelConfig | None]:
    """The network, and what is known of it."""
    from jaxplain import models

    if isinstance(model, str | os.PathLike):
        model = models.from_pretrained(model)
    own = getattr(model, "config", None)
    if config is None and isinstance(own, models.ModelConfig):
        config = own
    return model, config


def subject_of(
    network: Callable,
    shown: np.ndarray,
    x: jax.Array,
    targets: Any,
    *,
    name: str = "",
    config: ModelConfig | None = None,
    names: Sequence[str] | None = None,
    scores: np.ndarray | None = None,
) -> tuple[computing.Subject, str]:
    """A picture with what is asked for: classes, or as in `outputs`; and what the network says.

    ``scores`` are those of the classes, where they are known already.

    Raises:
        ValueError: there is no such target, or names that are not one each score.
    """
    gives = outputs.kind(config)
    if gives == "classes":
        targets = "top2" if targets is None else targets
        return _classified(network, shown, x, targets, name, config, names, scores)
    ask = outputs.embedded if gives == "embedding" else outputs.placed
    return ask(network, shown, x, targets, name=name, called=_called(network, config))


def _classified(
    network: Callable,
    shown: np.ndarray,
    x: jax.Array,
    targets: Any,
    name: str,
    config: ModelConfig | None,
    names: Sequence[str] | None,
    scores: np.ndarray | None,
) -> tuple[computing.Subject, str]:
    import jax
    import jax.numpy as jnp

    from jaxplain.core.numerics import class_scores

    if scores is None:
        scores = outputs.scores_of(network, x)
    scores = np.asarray(class_scores(jnp.asarray(scores)[None])[0])
    probabilities = np.asarray(jax.nn.softmax(scores))
    if names is None:
        names = () if config is None else config.class_names
    if names and len(names) != len(scores):
        raise ValueError(f"there are {len(names)} class names for {len(scores)} scores")
    names = list(names) or [f"class {i}" for i in range(len(scores))]
    chosen = choose_classes(_listed(targets), names, probabilities)
    ranked = probabilities.argsort()[::-1][:_SHOWN]
    about = Explanation(
        name=name,
        image=shown,
        model=_called(network, config),
        targets=tuple(chosen),
        class_names=tuple(names[i] for i in chosen),
        scores=scores[chosen],
        probabilities=probabilities[chosen],
        labels=tuple(_labels(chosen, names, probabilities)),
        predictions=predictions_table(
            (names[i], int(i), float(scores[i]), float(probabilities[i])) for i in ranked
        ),
    )
    said = [f"{about.model} predicts"]
    said += [f"  {share:6.1%}  {called} ({i})" for called, i, _, share in about.predictions]
    return computing.Subject(about, x, network), "\n".join(said)


def choose_classes(
    asked: Iterable[str | int], names: Sequence[str], probabilities: np.ndarray
) -> list[int]:
    """Class indices for NAME, INDEX or topK, in the order asked and once each.

    >>> choose_classes(["top1", "cup"], ["cat", "cup", "dog"], np.array([0.2, 0.1, 0.7]))
    [2, 1]
    """
    from jaxplain import models

    count = len(probabilities)
    chosen: list[int] = []
    for one in asked:
        text = str(one)
        if top := re.fullmatch(r"top[-_ ]?(\d+)", text.strip().lower()):
            if not 1 <= int(top[1]) <= count:
                raise ValueError(f"{text!r}: with {count} classes it must be top1 to top{count}")
            chosen += (int(i) for i in probabilities.argsort()[::-1][: int(top[1])])
        else:
            chosen.append(models.class_index(text.replace("_", " "), names, count))
    return list(dict.fromkeys(chosen))


def _listed(targets: Any) -> list[Any]:
    if isinstance(targets, str | int | np.integer):
        return [targets]
    return [one if isinstance(one, str) else int(one) for one in targets]


def _labels(targets: Sequence[int], names: Sequence[str], probabilities: np.ndarray) -> list[str]:
    """What is written over each class's row; two classes can bear one name."""
    labels: list[str] = []
    for i in targets:
        label = f"{names[i]}  {probabilities[i]:.1%}"
        labels.append(f"{label} ({i})" if label in labels else label)
    return labels


def _called(network: Any, config: ModelConfig | None) -> str:
    if config is not None:
        return config.name
    return getattr(network, "__name__", type(network).__name__)


def _names(images: Sequence[Any]) -> list[str]:
    """What pictures are called: files by their names, others by their place among several."""
    files = {Path(one) for one in images if isinstance(one, str | os.PathLike)}
    called = names_of_files(files)
    return [
        called[Path(one)]
        if isinstance(one, str | os.PathLike)
        else (f"image {i}" if len(images) > 1 else "")
        for i, one in enumerate(images)
    ]


def names_of_files(paths: Iterable[Path]) -> dict[Path, str]:
    """What files are called: by their names, or with their folders where two have one name.

    >>> list(names_of_files([Path("a/x.png"), Path("b/x.png"), Path("y.png")]).values())
    ['a/x.png', 'b/x.png', 'y.png']
    """
    short = {path: path.name for path in paths}
    names = list(short.values())
    return {path: name if names.count(name) == 1 else str(path) for path, name in short.items()}


def input_of(
    image: Any, config: ModelConfig | None, preprocess: Callable | None
) -> tuple[np.ndarray, jax.Array]:
    """The picture as it is shown, uint8 (H, W, 3), and the network's input (1, H, W, C)."""
    import jax.numpy as jnp

    from jaxplain import data, models
    from jaxplain.models.pixels import rgb_pixels

    if isinstance(image, str | os.PathLike):
        image = data.read_image(image)
    elif hasattr(image, "convert"):  # Pillow's
        image = rgb_pixels(image)
    array = np.asarray(image)
    if np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16":
        x = jnp.asarray(image)
        x = x[None] if x.ndim == 3 else x
        if x.ndim != 4 or x.shape[0] != 1 or 0 in x.shape:
            raise ValueError(f"an input must be (H, W, C) or (1, H, W, C), not {array.shape}")
        return _seen(np.asarray(x[0], np.float32)), x
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(
            f"a picture must be uint8 (H, W, 3), or the network's float input (H, W, C), not "
            f"{array.dtype} {array.shape}"
        )
    if preprocess is not None:
        x = jnp.asarray(preprocess(array))
        x = x[None] if x.ndim == 3 else x
        if x.ndim != 4 or x.shape[0] != 1:
            raise ValueError(f"preprocess must give (h, w, C) or (1, h, w, C), not {x.shape}")
        return array, x
    if config is None:
        raise ValueError(
            "it is not known how this network takes a picture: give preprocess=, or config=, a "
            "jaxplain.models.ModelConfig; or the network's input as a float array in place of the "
            "picture"
        )
    # The whole image, not its central crop: every pixel of the picture is explained.
    return array, models.preprocess(array, config, crop=False)


def _seen(x: np.ndarray) -> np.ndarray:
    """A network's input as a picture: its range becomes that of the colours."""
    if not np.isfinite(x).all():
        raise ValueError("the input holds NaN or infinity")
    x = x if x.shape[-1] == 3 else np.repeat(x.mean(-1, keepdims=True), 3, axis=-1)
    low, high = x.min(), x.max()
    return np.rint(255 * (x - low) / max(high - low, np.finfo(np.float32).tiny)).astype(np.uint8)
