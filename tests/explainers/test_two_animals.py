"""GoogLeNet's contrastive maps of pictures with two animals, with the real weights."""

import numpy as np

import jaxplain
from benchmarks import cued_animal


def test_contrastive_excitation_backprop_peaks_on_the_animal_asked_for(test_data):
    network = cued_animal.googlenet(test_data)
    x, labels, masks = cued_animal.load(test_data, network)
    layer = network.config.layer("excitation")
    maps = jaxplain.excitation_backprop(network, x, labels, layer=layer, contrastive=True)
    # One unit of the layer is larger than a pixel of the boxes: its centre counts.
    height, width = maps.shape[2:]
    rows = ((np.arange(height) + 0.5) * masks.shape[2] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * masks.shape[3] / width).astype(int)
    own = masks[:, :, rows][..., columns]
    only_other = cued_animal.others(masks)[:, :, rows][..., columns]
    for i, (picture, (_, animals)) in enumerate(cued_animal.PICTURES.items()):
        for k, animal in enumerate(animals):
            one = np.asarray(maps[i, k])
            peak = np.unravel_index(one.argmax(), one.shape)
            assert own[i, k][peak], (picture, animal.name, peak)
            assert (one * own[i, k]).sum() > 2 * (one * only_other[i, k]).sum(), animal.name
