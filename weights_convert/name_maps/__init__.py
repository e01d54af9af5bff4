"""Name maps: what each source of checkpoints calls the parameters of our networks. Data only.

One file a family of networks, in it one ``NameMap`` a source.
"""

from jaxplain.weights_convert.name_maps._format import (
    CAFFE,
    KERAS,
    TORCH,
    NameMap,
    caffe_norm,
    each_name,
    keras_numbered,
    own_names,
)

__all__ = [
    "CAFFE",
    "KERAS",
    "TORCH",
    "NameMap",
    "caffe_norm",
    "each_name",
    "keras_numbered",
    "own_names",
]
