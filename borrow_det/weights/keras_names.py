"""The names under which Keras' versions keep VGG-16's tensors in HDF5, made one.

Keras 1, the published files: block1_conv1/block1_conv1_W_1:0, ..._b_1:0.
Keras 2: block1_conv1/block1_conv1/kernel:0, bias:0.
Keras 3, model.save("x.h5"): the same without :0; model_weights/ before it, as in Keras
2's whole models.
Keras 3, .weights.h5 and .keras: layers/conv2d/vars/0 (kernel), 1 (bias); the layer's
name is an attribute of vars, which the first versions do not write.
Keras 2.12 to 2.15, the same: _layer_checkpoint_dependencies/conv2d/vars/0, 1.
"""

import re

import h5py

CONVOLUTIONS = tuple(
    f"block{stage}_conv{i + 1}"
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1)
    for i in range(count)
)
DENSE = ("fc1", "fc2", "predictions")

# Names that count the layers of a class, as the newer formats have them.
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
    """LAYER/kernel or LAYER/bias of the dataset at `place`; else `place` itself."""
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
