"""Explanations as files: one ``.npz`` file, a folder, or a picture."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.core import Table
from jaxplain.core.addresses import local
from jaxplain.core.writing import new_folder, write_atomically
from jaxplain.explanation.result import Explanation, MethodMaps

_ARRAYS, _MANIFEST = "maps.npz", "manifest.json"
_COLUMNS = ("class", "index", "score", "probability")


def predictions_table(rows: Any) -> Table[Any]:
    """Rows of (name, index, score, probability) as a table."""
    return Table([tuple(row) for row in rows], _COLUMNS)


def save(explanation: Explanation, path: str | os.PathLike[str], dpi: float) -> None:
    """See `Explanation.save`."""
    path = local(path)
    if path.suffix == ".npz":
        write_atomically(path, _npz(explanation))
    elif path.suffix:
        from jaxplain import viz

        viz.save(explanation.figure(), path, dpi=dpi)
    else:
        _save_folder(explanation, path, dpi)


def load(path: str | os.PathLike[str]) -> Explanation:
    """See `Explanation.load`."""
    path = Path(path)
    file = path / _ARRAYS if path.is_dir() else path
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(str(arrays["manifest"]))
        return _from(arrays, about)
    except (KeyError, zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path} holds no explanation that save wrote: {error}") from error


def manifest(explanation: Explanation) -> dict[str, Any]:
    """All that is known of an explanation but its arrays, as JSON values."""
    import jax

    import jaxplain

    return {
        "versions": {
            "jaxplain": jaxplain.__version__,
            "jax": jax.__version__,
            "flax": version("flax"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "picture": explanation.name,
        "size": list(explanation.image.shape[:2]),
        "model": explanation.model,
        "classes": [
            {
                "index": index,
                "name": name,
                "score": float(score),
                "probability": float(probability),
                "label": label,
            }
            for index, name, score, probability, label in zip(
                explanation.targets,
                explanation.class_names,
                explanation.scores,
                explanation.probabilities,
                explanation.labels,
                strict=True,
            )
        ],
        "predictions": [list(row) for row in explanation.predictions],
        "methods": {
            name: {
                "title": method.title,
                "style": method.style,
                "layer": method.layer if isinstance(method.layer, str | None) else [*method.layer],
                "options": dict(method.options),
                "maps": {part: list(array.shape) for part, array in method.maps.items()},
            }
            for name, method in explanation.methods.items()
        },
        "left_out": dict(explanation.left_out),
    }


def _npz(explanation: Explanation) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        image=explanation.image,
        scores=explanation.scores,
        probabilities=explanation.probabilities,
        targets=np.asarray(explanation.targets, np.int32),
        manifest=np.asarray(json.dumps(manifest(explanation))),
        **{f"maps/{name}": array for name, array in explanation.maps.items()},  # pyright: ignore[reportArgumentType]
    )
    return buffer.getvalue()


def _from(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> Explanation:
    methods = {}
    for name, said in about["methods"].items():
        maps = {
            part: arrays["maps/" + "/".join(filter(None, (name, part)))] for part in said["maps"]
        }
        layer = said["layer"]
        layer = tuple(layer) if isinstance(layer, list) else layer
        methods[name] = MethodMaps(name, said["title"], said["style"], layer, said["options"], maps)
    classes = about["classes"]
    return Explanation(
        name=about["picture"],
        image=arrays["image"],
        model=about["model"],
        targets=tuple(one["index"] for one in classes),
        class_names=tuple(one["name"] for one in classes),
        scores=arrays["scores"],
        probabilities=arrays["probabilities"],
        labels=tuple(one["label"] for one in classes),
        predictions=predictions_table(about["predictions"]),
        methods=methods,
        left_out=about["left_out"],
    )


def _save_folder(explanation: Explanation, folder: Path, dpi: float) -> None:
    """Whole or not at all: the folder is made beside its place, and then renamed."""
    from jaxplain import viz

    with new_folder(folder) as made:
        (made / _ARRAYS).write_bytes(_npz(explanation))
        said = manifest(explanation)
        (made / "overlays").mkdir()
        for name, method in explanation.methods.items():
            said["methods"][name]["overlays"] = _overlays(explanation, method, made / "overlays")
        text = json.dumps(said, indent=1, allow_nan=False)
        (made / _MANIFEST).write_text(f"{text}\n", "utf-8")
        viz.save(explanation.figure(), made / "figure.png", dpi=dpi)


def _overlays(explanation: Explanation, method: MethodMaps, folder: Path) -> list[str]:
    """Writes a picture for each map of a method; their names."""
    from PIL import Image

    written = []
    for part, array in method.maps.items():
        of_classes = array.ndim == 3 and part != "colours"
        for target in explanation.targets if of_classes else (None,):
            words = [method.name, part, "" if target is None else f"class{target}"]
            name = re.sub(r"[^\w.+-]+", "_", "-".join(filter(None, words))) + ".png"
            picture = explanation.overlay(method.name, target, part=part)
            Image.fromarray(picture).save(folder / name)
            written.append(f"overlays/{name}")
    return written
