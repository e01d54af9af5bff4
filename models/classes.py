"""From what a person calls a class to its number."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str], count: int = 5) -> list[str]:
    """The names most like ``name``: those that hold it as a word first, then similar spellings.

    Example:
        >>> from jaxplain.models.classes import nearest
        >>> nearest("cat", ["cup", "tabby cat", "cart"])
        ['tabby cat', 'cart']
    """
    folded = {k.casefold(): k for k in reversed(known)}
    word = re.compile(rf"\b{re.escape(name.casefold())}\b")
    found = [k for k in known if name.strip() and word.search(k.casefold())]
    close = difflib.get_close_matches(name.casefold(), list(folded), count, cutoff=0.5)
    return list(dict.fromkeys(found + [folded[k] for k in close]))[:count]


def class_index(name: str | int, class_names: Sequence[str], num_classes: int | None = None) -> int:
    """The number of a class that is given by name or number.

    Args:
        name: a class name (case does not matter; of several names separated by commas each one
            counts), or a number, also as text.
        class_names: one each class.
        num_classes: how many there are; None for the number of names.

    Returns:
        the index.

    Raises:
        ValueError: no such class (the nearest names are suggested), several of that name,
            or a number out of range.

    Example:
        >>> from jaxplain.models import class_index
        >>> class_index("Cup", ["tabby, tabby cat", "cup"]), class_index("0", ["cat", "cup"])
        (1, 0)
    """
    count = len(class_names) if num_classes is None else num_classes
    try:
        index = int(name)
    except ValueError:
        pass
    else:
        if not 0 <= index < count:
            raise ValueError(f"Class {index} is out of range: there are classes 0 to {count - 1}.")
        return index
    wanted = str(name).strip().casefold()
    matches = [
        i
        for i, names in enumerate(class_names)
        if wanted == names.casefold() or wanted in (n.strip() for n in names.casefold().split(","))
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        numbers = ", ".join(map(str, matches))
        raise ValueError(f"Several classes are named {name!r}: give one of the numbers {numbers}.")
    near = nearest(wanted, class_names)
    hint = f"; the nearest are {', '.join(map(repr, near))}" if near else ""
    raise ValueError(f"There is no class {name!r}{hint}.")
