"""The maps of one record, and how they are written down."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """The maps of one record.

    Attributes:
        id, index: the record's id, and its number in the source.
        size: (height, width) of the original image.
        input_size: (height, width) of the pixels that were explained, which cover the whole image.
        targets: int32, what was explained: the top class ``()``; or ``(K,)``, the fixed classes, or
            the record's own labels.
        maps: method -> float32 ``(h, w)``, or ``(K, h, w)`` with K targets, at the resolution that
            the method has.
        scores: float32, of the shape of ``targets``: the network's scores that were explained, of a
            label the mean that its signal takes; None in maps of versions before they were kept.
        predicted: the class with the highest score; None as ``scores``.
    """

    id: str
    index: int
    size: tuple[int, int]
    input_size: tuple[int, int]
    targets: np.ndarray
    maps: Mapping[str, np.ndarray] = dataclasses.field(repr=False)
    scores: np.ndarray | None = dataclasses.field(default=None, repr=False)
    predicted: int | None = dataclasses.field(default=None, repr=False)


def encode(one: Explanation) -> bytes:
    """A line of JSON with names and shapes, then the numbers: int32 targets, float32 maps and
    scores."""
    header = {
        "id": one.id,
        "index": one.index,
        "size": one.size,
        "input_size": one.input_size,
        "targets": one.targets.shape,
        "maps": {name: m.shape for name, m in one.maps.items()},
    }
    arrays = [one.targets.astype("<i4"), *(m.astype("<f4") for m in one.maps.values())]
    if one.scores is not None:  # at the end, where readers that do not know of it do not look
        header |= {"scores": one.scores.shape, "predicted": one.predicted}
        arrays.append(one.scores.astype("<f4"))
    return b"".join([json.dumps(header).encode(), b"\n", *(a.tobytes() for a in arrays)])


def decode(data: bytes) -> Explanation:
    """The inverse of ``encode``.

    >>> import numpy as np
    >>> one = Explanation("a", 0, (9, 8), (6, 5), np.int32(3), {"CAM": np.ones((2, 2), "f4")})
    >>> decode(encode(one))
    Explanation(id='a', index=0, size=(9, 8), input_size=(6, 5), targets=array(3, dtype=int32))
    """
    at = data.index(b"\n") + 1
    header = json.loads(data[:at])

    def take(shape: Sequence[int], dtype: str) -> np.ndarray:
        nonlocal at
        count = math.prod(shape)
        found = np.frombuffer(data, dtype, count, at).reshape(shape)
        at += found.nbytes
        return found

    targets = take(header["targets"], "<i4")
    maps = {name: take(shape, "<f4") for name, shape in header["maps"].items()}
    scores = take(header["scores"], "<f4") if "scores" in header else None
    return Explanation(
        header["id"],
        header["index"],
        tuple(header["size"]),
        tuple(header["input_size"]),
        targets,
        maps,
        scores,
        header.get("predicted"),
    )
