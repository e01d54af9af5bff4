"""`jaxplain explain --reference`: what makes a picture similar to another (Liao et al. 2024).

The score that is explained is the cosine similarity of two embeddings, the network's outputs. Of
several references the most similar one is the prediction: with five, one of each class, that is a
5-way 1-shot episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli.common import CliError, step
from jaxplain.explainers.catalogue import CATALOGUE
from jaxplain.explanation import Explanation
from jaxplain.explanation.computing import Subject
from jaxplain.explanation.explaining import names_of_files

if TYPE_CHECKING:
    import jax
    import numpy as np

    from jaxplain.explanation.choice import Choice


def comparable(choices: Mapping[str, Choice], every: bool) -> dict[str, Choice]:
    """The methods that a reference has an effect on; another is an error unless ``every``."""
    kept = {}
    for name, choice in choices.items():
        method = CATALOGUE[name]
        if method.per_class and method.needs is None:
            kept[name] = choice
        elif not every:
            raise CliError(f"{name} explains no similarity, and --reference has no effect on it")
    return kept


def subjects(
    model: Any,
    photos: Mapping[Path, np.ndarray],
    images: Sequence[Path],
    references: Sequence[Path],
) -> list[Subject]:
    """Each image beside the reference that is most like it, and that reference beside it."""
    import numpy as np

    from jaxplain import models

    with step("comparing"):
        inputs = {
            path: models.preprocess(p, model.config, crop=False) for path, p in photos.items()
        }
        embeddings = {path: model(x)[0] for path, x in inputs.items()}
    called = names_of_files(photos)
    found = []
    for image in images:
        scores = {r: float(_cosine(embeddings[image], embeddings[r])) for r in references}
        ranked = sorted(scores, key=lambda r: -scores[r])
        print(f"{image}: {model.config.name} finds most similar")
        for reference in ranked:
            print(f"  {scores[reference]:6.3f}  {reference}")
        best = ranked[0]
        for one, other in dict.fromkeys([(image, best), (best, image)]):
            found.append(
                Subject(
                    Explanation(
                        name=called[one],
                        image=photos[one],
                        model=model.config.name,
                        targets=(0,),
                        class_names=(f"like {called[other]}",),
                        scores=np.array([scores[best]], np.float32),
                        probabilities=np.array([np.nan], np.float32),
                        labels=(f"like {called[other]}  {scores[best]:.3f}",),
                    ),
                    inputs[one],
                    _similarity(model, embeddings[other]),
                    embeddings[other],
                )
            )
    return found


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    from jaxplain.models.resnet import l2_normalise

    return l2_normalise(a) @ l2_normalise(b)


def _similarity(model: Any, reference: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Images to their similarity ``(B, 1)``: to explainers the reference is a classifier."""
    from jaxplain.models.resnet import l2_normalise

    weight = l2_normalise(reference)[:, None]
    return lambda x: l2_normalise(model(x)) @ weight
