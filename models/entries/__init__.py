"""The networks that jaxplain knows by name: one file a family, each with a table ``ENTRIES``."""

from jaxplain.models.entries import (
    alexnet,
    attention_resnet,
    cifar_resnet,
    efficientnet,
    few_shot,
    googlenet,
    resnet,
    squeezenet,
    vgg,
)
from jaxplain.models.entry import Entry

_FAMILIES = (
    vgg,
    alexnet,
    googlenet,
    squeezenet,
    resnet,
    attention_resnet,
    cifar_resnet,
    few_shot,
    efficientnet,
)

#: Name -> entry.
ENTRIES: dict[str, Entry] = {}
for _family in _FAMILIES:
    for _name, _entry in _family.ENTRIES.items():
        if _name in ENTRIES or _name != _entry.config.name:
            raise ValueError(f"The entry {_name!r} is there twice, or its config names another.")
        ENTRIES[_name] = _entry
