"""The catalogue: the one list of the methods there are, and of what is known of each.

The command line, the networks' default layers, the blur of the pointing game, the table in the
README, ``jaxplain.explainers`` itself and the tests of every method derive from it. It is data, and
JAX is not imported for it, so that ``jaxplain --help`` can list the names.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxplain.explainers.method import Method

CATALOGUE: Mapping[str, Method] = {
    "mwp": Method(
        "MWP",
        "excitation.excitation_backprop",
        "heat",
        about="Excitation Backprop: MWP maps, and contrastive ones (c-MWP)",
        paper="[Zhang et al. 2018](https://arxiv.org/abs/1608.00507)",
        aliases=("excitation-backprop",),
        at_layer=True,
        layer="excitation",
        opens="all",
        shown=1,
    ),
    "c-mwp": Method(
        "c-MWP",
        "excitation.excitation_backprop",
        "heat",
        aliases=("contrastive-mwp", "cmwp"),
        options={"contrastive": True},
        at_layer=True,
        layer="excitation",
        opens="all",
        shown=2,
    ),
    "d-wta": Method(
        "d-WTA",
        "excitation.winner_take_all",
        "heat",
        about="deterministic winner-take-all (selective tuning)",
        paper="[Tsotsos et al. 1995](https://doi.org/10.1016/0004-3702(95)00025-9), "
        "as in Zhang et al. 2018",
        aliases=("winner-take-all",),
        at_layer=True,
        layer="winner",
        opens="all",
    ),
    "c-deconvnet": Method(
        "c-DeconvNet",
        "contrastive.contrastive_deconvnet",
        "signed",
        about="the contrast of c-MWP for other backward passes",
        paper="Zhang et al. 2018, Table 3",
        aliases=("contrastive-deconvnet", "c-deconv"),
        blurred=True,
        opens="relus",
    ),
    "c-gradient": Method(
        "c-Gradient",
        "contrastive.contrastive_gradient",
        "signed",
        about='c-Grad: zero, as the paper says; with `reduce="sum"` twice the signed map',
        paper="Zhang et al. 2018, Table 3",
        aliases=("contrastive-gradient", "c-grad"),
        blurred=True,
    ),
    "c-cam": Method(
        "c-CAM",
        "contrastive.contrastive_cam",
        "heat",
        about="c-CAM: twice CAM over its L1 norm, with the same maximum",
        paper="Zhang et al. 2018, Table 3",
        aliases=("contrastive-cam",),
        layer="last",
    ),
    "gradient": Method(
        "Gradient",
        "gradients.gradient",
        "gray",
        about="gradient, saliency",
        paper="[Simonyan et al. 2014](https://arxiv.org/abs/1312.6034)",
        aliases=("saliency",),
        blurred=True,
    ),
    "input-x-gradient": Method(
        "Input x gradient",
        "gradients.input_x_gradient",
        "signed",
        about="input times gradient",
        paper="[Shrikumar et al. 2016](https://arxiv.org/abs/1605.01713)",
        blurred=True,
    ),
    "smooth-grad": Method(
        "SmoothGrad",
        "averaged_gradients.smooth_grad",
        "gray",
        about="SmoothGrad",
        paper="[Smilkov et al. 2017](https://arxiv.org/abs/1706.03825)",
        aliases=("smoothgrad",),
        random=True,
        blurred=True,
    ),
    "integrated-gradients": Method(
        "Integrated gradients",
        "averaged_gradients.integrated_gradients",
        "signed",
        about="integrated gradients",
        paper="[Sundararajan et al. 2017](https://arxiv.org/abs/1703.01365)",
        blurred=True,
    ),
    "guided-backprop": Method(
        "Guided backprop",
        "gradients.guided_backprop",
        "gray",
        about="guided backpropagation",
        paper="[Springenberg et al. 2015](https://arxiv.org/abs/1412.6806)",
        blurred=True,
        opens="relus",
        shown=4,
    ),
    "deconvnet": Method(
        "DeconvNet",
        "gradients.deconvnet",
        "gray",
        about="DeconvNet",
        paper="[Zeiler and Fergus 2014](https://arxiv.org/abs/1311.2901)",
        blurred=True,
        opens="relus",
    ),
    "full-grad": Method(
        "FullGrad",
        "full_grad.full_grad",
        "heat",
        about="FullGrad, and its bias gradients layer by layer",
        paper="[Srinivas and Fleuret 2019](https://arxiv.org/abs/1905.00780)",
        also=("full_grad_terms",),
        aliases=("fullgrad",),
        blurred=True,
    ),
    "feedback": Method(
        "Feedback CNN",
        "feedback.feedback",
        "gray",
        about="Feedback CNN; `feedback_localise` for the box",
        paper="[Cao et al. 2015](https://doi.org/10.1109/ICCV.2015.338)",
        blurred=True,
        opens="relus",
    ),
    "cam": Method(
        "CAM",
        "cams.cam",
        "heat",
        about="class activation maps",
        paper="[Zhou et al. 2016](https://arxiv.org/abs/1512.04150)",
        layer="last",
    ),
    "fitted-cam": Method(
        "Fitted CAM",
        "fitted_cam.fitted_cam",
        "heat",
        about="CAM for networks without a global pool, by regression over a data set",
        paper="as in Ebrahimpour et al. 2019",
        also=("fit_cam",),
        aliases=("fit-cam",),
        layer="last",
        needs="fit",
    ),
    "grad-cam": Method(
        "Grad-CAM",
        "cams.grad_cam",
        "heat",
        about="Grad-CAM",
        paper="[Selvaraju et al. 2017](https://arxiv.org/abs/1610.02391)",
        aliases=("gradcam",),
        at_layer=True,
        layer="last",
        shown=3,
    ),
    "guided-grad-cam": Method(
        "Guided Grad-CAM",
        "guided_grad_cam.guided_grad_cam",
        "gray",
        about="Guided Grad-CAM",
        paper="[Selvaraju et al. 2017](https://arxiv.org/abs/1610.02391)",
        at_layer=True,
        layer="last",
        blurred=True,
        opens="relus",
    ),
    "grad-cam++": Method(
        "Grad-CAM++",
        "cams.grad_cam_plus_plus",
        "heat",
        about="Grad-CAM++",
        paper="[Chattopadhay et al. 2018](https://arxiv.org/abs/1710.11063)",
        aliases=("grad-cam-plus-plus",),
        at_layer=True,
        layer="last",
    ),
    "x-grad-cam": Method(
        "XGrad-CAM",
        "cams.x_grad_cam",
        "heat",
        about="XGrad-CAM",
        paper="[Fu et al. 2020](https://arxiv.org/abs/2008.02312)",
        aliases=("xgrad-cam",),
        at_layer=True,
        layer="last",
    ),
    "layer-cam": Method(
        "LayerCAM",
        "cams.layer_cam",
        "heat",
        about="LayerCAM",
        paper="[Jiang et al. 2021](https://doi.org/10.1109/TIP.2021.3089943)",
        aliases=("layercam",),
        at_layer=True,
        layer="last",
    ),
    "hires-cam": Method(
        "HiResCAM",
        "cams.hires_cam",
        "heat",
        about="HiResCAM",
        paper="[Draelos and Carin 2020](https://arxiv.org/abs/2011.08891)",
        aliases=("hirescam",),
        at_layer=True,
        layer="last",
    ),
    "score-cam": Method(
        "Score-CAM",
        "activation_cams.score_cam",
        "heat",
        about="Score-CAM",
        paper="[Wang et al. 2020](https://arxiv.org/abs/1910.01279)",
        aliases=("scorecam",),
        at_layer=True,
        layer="last",
    ),
    "ablation-cam": Method(
        "Ablation-CAM",
        "activation_cams.ablation_cam",
        "heat",
        about="Ablation-CAM",
        paper="[Ramaswamy et al. 2020](https://doi.org/10.1109/WACV45572.2020.9093360)",
        aliases=("ablationcam",),
        at_layer=True,
        layer="last",
    ),
    "eigen-cam": Method(
        "Eigen-CAM",
        "activation_cams.eigen_cam",
        "heat",
        about="Eigen-CAM",
        paper="[Muhammad and Yeasin 2020](https://arxiv.org/abs/2008.00299)",
        aliases=("eigencam",),
        at_layer=True,
        layer="last",
    ),
    "relevance-cam": Method(
        "Relevance-CAM",
        "relevance_cam.relevance_cam",
        "heat",
        about="Relevance-CAM",
        paper="[Lee et al. 2021](https://doi.org/10.1109/CVPR46437.2021.01470)",
        aliases=("relevancecam",),
        at_layer=True,
        layer="last",
        opens="all",
    ),
    "dense-attention": Method(
        "Dense Attention",
        "dense_attention.dense_attention",
        "heat",
        about="Densely Connected Attention Model: needs no class",
        paper="Ebrahimpour et al. 2019, Do Humans Look Where Deep Convolutional Neural Networks "
        '"Attend"?',
        per_class=False,
        rows=True,
    ),
    "pfv": Method(
        "PFV",
        "pfv.pfv",
        "heat",
        about="Principal Feature Visualisation, of a batch or a data set",
        paper="Bakken et al. 2020, Principal Feature Visualisation in Convolutional Neural "
        "Networks",
        also=("pfv_fit", "pfv_apply"),
        aliases=("principal-feature-visualisation",),
        at_layer=True,
        per_class=False,
        rows=True,
    ),
    "naflow": Method(
        "NAFlow",
        "naflow.naflow",
        "heat",
        about="Neuron Abandoning Attention Flow, for classifiers and for embeddings",
        paper="Liao et al. 2024, Neuron Abandoning Attention Flow",
        also=("naflow_similarity",),
        aliases=("neuron-abandoning-attention-flow",),
        at_layer=True,
        rows=True,
    ),
    "lrp": Method(
        "LRP",
        "lrp.lrp",
        "signed",
        about="layer-wise relevance propagation: epsilon, gamma, z+, alpha-beta, w², flat, z-box, "
        "named composites",
        paper="[Bach et al. 2015](https://doi.org/10.1371/journal.pone.0130140), [Montavon et al. "
        "2017](https://arxiv.org/abs/1512.02479), "
        "[2019](https://doi.org/10.1007/978-3-030-28954-6_10)",
        blurred=True,
        opens="all",
        shown=5,
    ),
    "attention-rollout": Method(
        "Attention rollout",
        "attention_maps.attention_rollout",
        "heat",
        about="attention rollout: what a transformer's class token is made of",
        paper="[Abnar and Zuidema 2020](https://arxiv.org/abs/2005.00928)",
        aliases=("rollout",),
        attention=True,
    ),
    "transformer-attribution": Method(
        "Transformer attribution",
        "attention_maps.transformer_attribution",
        "heat",
        about="attention weights times their gradients, through all blocks",
        paper="[Chefer et al. 2021](https://arxiv.org/abs/2103.15679)",
        aliases=("chefer", "transformer-explainability"),
        attention=True,
    ),
    "legrad": Method(
        "LeGrad",
        "attention_maps.legrad",
        "heat",
        about="LeGrad: gradients at the attention weights of every block",
        paper="[Bousselham et al. 2025](https://arxiv.org/abs/2404.03214)",
        attention=True,
    ),
    "occlusion": Method(
        "Occlusion",
        "perturbation.occlusion",
        "signed",
        about="occlusion",
        paper="Zeiler and Fergus 2014",
    ),
    "rise": Method(
        "RISE",
        "perturbation.rise",
        "heat",
        about="RISE",
        paper="[Petsiuk et al. 2018](https://arxiv.org/abs/1806.07421)",
        # The paper's 4000 masks or more take minutes on a processor.
        options={"samples": 1000},
        random=True,
    ),
}

#: The methods that give one map for each class from network and image alone.
METHODS: Mapping[str, Method] = {
    name: method
    for name, method in CATALOGUE.items()
    if method.per_class and not method.rows and method.needs is None
}

#: What `jaxplain explain` shows when it is not told otherwise.
DEFAULT: tuple[str, ...] = tuple(
    name
    for _, name in sorted((m.shown, name) for name, m in CATALOGUE.items() if m.shown is not None)
)

_ALIASES = {alias: name for name, method in CATALOGUE.items() for alias in method.aliases}


def canonical(name: str) -> str:
    """A method's name in the catalogue's spelling: lower case, hyphens, aliases resolved.

    >>> canonical("Guided_Backprop"), canonical("saliency")
    ('guided-backprop', 'gradient')
    """
    name = name.strip().lower().replace("_", "-")
    return _ALIASES.get(name, name)


def markdown_table() -> str:
    """The table of methods in the README."""
    lines = ["| function | method | paper |", "| --- | --- | --- |"]
    for method in CATALOGUE.values():
        if method.about:
            functions = ", ".join(f"`{name}`" for name in (method.function, *method.also))
            lines.append(f"| {functions} | {method.about} | {method.paper} |")
    return "\n".join(lines)
