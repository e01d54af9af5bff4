"""The methods that the command line knows: one table of name, function call and way of drawing.

The table is data, and JAX is not imported for it, so that `jaxplain --help` can list the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """One entry: how to call the explainer, and how to show what it returns."""

    title: str  #: as it is written over its picture
    function: str  #: name of the explainer, an attribute of `jaxplain`
    style: str  #: a style of `jaxplain.viz`
    options: Mapping[str, Any] = field(default_factory=dict)
    at_layer: bool = False  #: explained at a layer, which `--layer` chooses; else at the image
    random: bool = False  #: needs a PRNG key


METHODS: Mapping[str, Method] = {
    "mwp": Method("MWP", "excitation_backprop", "heat", at_layer=True),
    "c-mwp": Method("c-MWP", "excitation_backprop", "heat", {"contrastive": True}, at_layer=True),
    "d-wta": Method("d-WTA", "winner_take_all", "heat", at_layer=True),
    "gradient": Method("Gradient", "gradient", "gray"),
    "input-x-gradient": Method("Input x gradient", "input_x_gradient", "signed"),
    "smooth-grad": Method("SmoothGrad", "smooth_grad", "gray", random=True),
    "integrated-gradients": Method("Integrated gradients", "integrated_gradients", "signed"),
    "guided-backprop": Method("Guided backprop", "guided_backprop", "gray"),
    "deconvnet": Method("DeconvNet", "deconvnet", "gray"),
    "feedback": Method("Feedback CNN", "feedback", "gray"),
    "c-deconvnet": Method("c-DeconvNet", "contrastive_deconvnet", "signed"),
    "cam": Method("CAM", "cam", "heat"),
    "grad-cam": Method("Grad-CAM", "grad_cam", "heat", at_layer=True),
    "guided-grad-cam": Method("Guided Grad-CAM", "guided_grad_cam", "gray", at_layer=True),
    "grad-cam++": Method("Grad-CAM++", "grad_cam_plus_plus", "heat", at_layer=True),
    "x-grad-cam": Method("XGrad-CAM", "x_grad_cam", "heat", at_layer=True),
    "layer-cam": Method("LayerCAM", "layer_cam", "heat", at_layer=True),
    "hires-cam": Method("HiResCAM", "hires_cam", "heat", at_layer=True),
    "score-cam": Method("Score-CAM", "score_cam", "heat", at_layer=True),
    "ablation-cam": Method("Ablation-CAM", "ablation_cam", "heat", at_layer=True),
    "eigen-cam": Method("Eigen-CAM", "eigen_cam", "heat", at_layer=True),
    "relevance-cam": Method("Relevance-CAM", "relevance_cam", "heat", at_layer=True),
    "full-grad": Method("FullGrad", "full_grad", "heat"),
    "occlusion": Method("Occlusion", "occlusion", "signed"),
    # The paper's 4000 masks or more take minutes on a processor.
    "rise": Method("RISE", "rise", "heat", {"masks": 1000}, random=True),
    "lrp": Method("LRP", "lrp", "signed"),
}

#: Not one map a class from the image alone: `jaxplain explain` draws these in ways of their own.
OTHERS: Mapping[str, Method] = {
    "fitted-cam": Method("Fitted CAM", "fitted_cam", "heat"),
    "naflow": Method("NAFlow", "naflow", "heat", at_layer=True),
    "dense-attention": Method("Dense Attention", "dense_attention", "heat"),
    "pfv": Method("PFV", "pfv", "heat", at_layer=True),
}

#: Explained at the image, and sparse: the pointing game blurs their maps, as its paper does.
BLURRED = frozenset(
    {
        "gradient",
        "input-x-gradient",
        "smooth-grad",
        "integrated-gradients",
        "feedback",
        "guided-backprop",
        "deconvnet",
        "c-deconvnet",
        "guided-grad-cam",
        "lrp",
        "full-grad",
    }
)

#: What `jaxplain explain` shows when it is not told otherwise.
DEFAULT = ("mwp", "c-mwp", "grad-cam", "guided-backprop", "lrp")

#: Other spellings that people use.
ALIASES: Mapping[str, str] = {
    "excitation-backprop": "mwp",
    "contrastive-mwp": "c-mwp",
    "cmwp": "c-mwp",
    "winner-take-all": "d-wta",
    "saliency": "gradient",
    "grad-cam-plus-plus": "grad-cam++",
    "xgrad-cam": "x-grad-cam",
    "layercam": "layer-cam",
    "hirescam": "hires-cam",
    "scorecam": "score-cam",
    "ablationcam": "ablation-cam",
    "eigencam": "eigen-cam",
    "relevancecam": "relevance-cam",
    "fullgrad": "full-grad",
    "contrastive-deconvnet": "c-deconvnet",
    "smoothgrad": "smooth-grad",
    "gradcam": "grad-cam",
    "fit-cam": "fitted-cam",
    "principal-feature-visualisation": "pfv",
    "neuron-abandoning-attention-flow": "naflow",
}


def canonical(name: str) -> str:
    """A method's name in the table's spelling: lower case, hyphens, aliases resolved.

    >>> canonical("Guided_Backprop"), canonical("saliency")
    ('guided-backprop', 'gradient')
    """
    name = name.strip().lower().replace("_", "-")
    return ALIASES.get(name, name)


def explainer(name: str, config: Any, layer: str | None = None, **more: Any) -> Callable:
    """A method as a function (network, images, targets) to maps.

    It is explained at the network's default layer, which ``config`` knows, or at ``layer``;
    ``more`` are further options.
    """
    import jax

    import jaxplain

    method = METHODS[name] if name in METHODS else OTHERS[name]
    options = {**method.options, **more}
    if method.at_layer:
        options["layer"] = config.layer(method.function) if layer is None else layer
    if method.random:
        options["key"] = jax.random.key(0)
    explain = getattr(jaxplain, method.function)
    return lambda network, x, targets: explain(network, x, targets, **options)
