"""Registry entries of the few-shot networks."""

import functools

from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.entry import TORCH_INPUT, Entry, Source
from jaxplain.models.few_shot import CHANNELS, INPUT_SIZE, FewShotNet, feature_size
from jaxplain.weights_convert.name_maps import few_shot as maps


def _build(network: str, outputs: int, **options) -> FewShotNet:
    length = CHANNELS * feature_size(network) ** 2
    if outputs != length:
        raise ValueError(f"The embedding of {network} has {length} numbers, not {outputs}.")
    return FewShotNet(network, **options)


def _entry(network: str, names) -> Entry:
    outputs = CHANNELS * feature_size(network) ** 2
    return Entry(
        build=functools.partial(_build, network),
        config=ModelConfig(
            name=network,
            input_size=INPUT_SIZE,
            layers=default_layers("pool2", "conv4"),
            outputs=outputs,
            **TORCH_INPUT,
        ),
        sources=(Source(names),),
        outputs=outputs,
    )


ENTRIES = {
    "conv4net": _entry("conv4net", maps.META_BASELINE_CONV4NET),
    "conv64f": _entry("conv64f", maps.LIBFEWSHOT_CONV64F),
}
