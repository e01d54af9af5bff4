"""The explainers: pure functions from a network, images and targets to maps.

The catalogue says which files hold them; what the ``__all__`` of each file names is exported here
and from `jaxplain`. Type checkers read ``__init__.pyi``, which is generated from the signatures
(``python tests/helpers/explainer_stub.py``).
"""

from jaxplain.core.lazy import import_when_asked
from jaxplain.explainers.catalogue import CATALOGUE

#: What explainers take and give back, and what belongs to one; file -> names.
_BESIDES = {
    "dense_attention": ("DenseAttention",),
    "feedback": ("Feedback",),
    "fitted_cam": ("FittedCam",),
    "naflow": ("Flow", "LeastSquares", "contribution_weights"),
    "pfv": ("PFVBasis", "PrincipalFeatures"),
}
_PLACES = {name: file for file, names in _BESIDES.items() for name in names}
for _method in CATALOGUE.values():
    _PLACES.update(dict.fromkeys((_method.function, *_method.also), _method.file))

import_when_asked(__name__, _PLACES)
__all__ = sorted(_PLACES)  # pyright: ignore[reportUnsupportedDunderAll]
