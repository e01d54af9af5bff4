"""Conv4Net and Conv64F."""

from jaxplain.weights_convert.name_maps import TORCH, NameMap

#: yinboc/few-shot-meta-baseline: the encoder of a meta-learner or a classifier.
META_BASELINE_CONV4NET = NameMap(
    source="few-shot-meta-baseline",
    modules={
        "conv{i}": "encoder.encoder.{i}.0",
        "bn{i}": "encoder.encoder.{i}.1",
    },
    auxiliary=("temp", "classifier.*"),
    **TORCH,
)
#: RL-VIG/LibFewShot: the embedding network of any of its methods.
LIBFEWSHOT_CONV64F = NameMap(
    source="libfewshot",
    modules={
        "conv{i}": "emb_func.layer{i+1}.0",
        "bn{i}": "emb_func.layer{i+1}.1",
    },
    auxiliary=("classifier.*",),
    **TORCH,
)
