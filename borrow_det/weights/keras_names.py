"""Names of VGG-16's tensors in HDF5 files of all versions of Keras.

Keras 1, the published files: block1_conv1/block1_conv1_W_1:0, ..._b_1:0.
Keras 2: block1_conv1/block1_conv1/kernel:0, bias:0; complete models have the prefix
model_weights/.
Keras 3, model.save("x.h5"): the same with the prefix and without :0.
Keras 3, .weights.h5 and .keras: layers/conv2d/vars/0 (kernel), 1 (bias). The name of
the layer is an attribute of vars, which the first versions do not write.
Keras 2.12 to 2.15, .weights.h5 and .keras:
_layer_checkpoint_dependencies/conv2d/vars/0, 1.
"""

import re

import h5py

CONVOLUTIONS = tuple(
    f"block{stage}_conv{i + 1}"
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1)
    for i in range(count)
)
DENSE = ("fc1", "fc2", "predictions")

# Newer formats name layers by their class and a number.
_COUNTED = {
    f"{kind}_{i}" if i else kind: name
    for kind, names in (("conv2d", CONVOLUTIONS), ("dense", DENSE))
    for i, name in enumerate(names)
}
_VARS = re.compile(r"(?:layers|_layer_checkpoint_dependencies)/([^/]+)/vars/([01])")
_NAMED = re.compile(
    r"(?:model_weights/)?(?P<layer>[^/]+)/(?:.*/)?"
    r"(?:(?P<word>kernel|bias)|(?P=layer)_(?P<letter>[Wb])(?:_\d+)?)(?::0)?"
)


def canonical(place: str, file: h5py.File) -> str:
    """Returns LAYER/kernel or LAYER/bias for a known name, and other names unchanged.

    Args:
      place: name of a dataset in the file.
      file: the file.
    """
    counted = _VARS.fullmatch(place)
    if counted:
        given = file[place].parent.attrs.get("name", counted[1])
        layer = given.decode() if isinstance(given, bytes) else str(given)
        layer = _COUNTED.get(layer, layer)
        return f"{layer}/{('kernel', 'bias')[int(counted[2])]}"
    named = _NAMED.fullmatch(place)
    if named:
        word = named["word"] or {"W": "kernel", "b": "bias"}[named["letter"]]
        return f"{named['layer']}/{word}"
    return place
