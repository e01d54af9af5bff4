"""ResNet-50 with CBAM or BAM."""

import dataclasses

from jaxplain.weights_convert.name_maps.resnet import TORCHVISION_RESNET

#: Jongchan/attention-module, with ``--att-type CBAM``.
AUTHORS_CBAM = dataclasses.replace(
    TORCHVISION_RESNET,
    source="attention-module",
    modules={
        **TORCHVISION_RESNET.modules,
        "layer{s}.{b}.cbam.fc1": "layer{s}.{b}.cbam.ChannelGate.mlp.1",
        "layer{s}.{b}.cbam.fc2": "layer{s}.{b}.cbam.ChannelGate.mlp.3",
        "layer{s}.{b}.cbam.conv": "layer{s}.{b}.cbam.SpatialGate.spatial.conv",
        "layer{s}.{b}.cbam.bn": "layer{s}.{b}.cbam.SpatialGate.spatial.bn",
    },
)
#: Jongchan/attention-module, with ``--att-type BAM``.
AUTHORS_BAM = dataclasses.replace(
    TORCHVISION_RESNET,
    source="attention-module",
    modules={
        **TORCHVISION_RESNET.modules,
        "bam{i}.channel_fc1": "bam{i}.channel_att.gate_c.gate_c_fc_0",
        "bam{i}.channel_bn": "bam{i}.channel_att.gate_c.gate_c_bn_1",
        "bam{i}.channel_fc2": "bam{i}.channel_att.gate_c.gate_c_fc_final",
        "bam{i}.reduce_conv": "bam{i}.spatial_att.gate_s.gate_s_conv_reduce0",
        "bam{i}.reduce_bn": "bam{i}.spatial_att.gate_s.gate_s_bn_reduce0",
        "bam{i}.dilated_conv{j}": "bam{i}.spatial_att.gate_s.gate_s_conv_di_{j}",
        "bam{i}.dilated_bn{j}": "bam{i}.spatial_att.gate_s.gate_s_bn_di_{j}",
        "bam{i}.final_conv": "bam{i}.spatial_att.gate_s.gate_s_conv_final",
    },
)
