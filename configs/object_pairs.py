"""Scenes of objects that are cut out of your photographs: does borrowing help them?

    python -m borrow_det.main --config=configs/object_pairs.py:path=DIR --workdir=W

Arguments: path (required: the folder with the photographs, as in configs/folder.py),
instance=other (same: the small objects are the large one again), borrow=True (False:
plain SSD on the same levels, the baseline).

A scene shows one large object of each of two classes and, far from them, two to four
small objects of these classes (docs/data.md). Boxes are cut out whose sides have at
least 48 pixels; change dataset.min_crop_side for photographs of another resolution.

The network is that of configs/quickstart.py, with smaller anchors on the first level.
On aquarium, a run took 106 s on one CPU core (median of 35, two at once).
docs/results.md has the figures. A small object shows something of its class, so that
plain SSD is better than chance. Compare the accuracy of small objects on `validation`
with that on `alone` (without lenders) and on `swapped` (with large objects of other
classes).
"""

import ml_collections

from borrow_det.configs import arguments, quickstart


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, path=str, instance="other", borrow=True)
    config = quickstart.get_config()
    config.num_steps = 700
    config.log_every = 50
    config.eval_every = config.checkpoint_every = 350

    config.dataset.name = "object_pairs"
    config.dataset.path = args.path
    config.dataset.instance = args.instance
    config.dataset.max_boxes = 6  # Two large and at most four small objects.
    config.dataset.crop_context = 0.1
    config.dataset.min_crop_side = 48.0

    # Small objects have 5.5 to 7.5 % of the side, large ones 25 to 31 %.
    config.anchors.sizes = (14.0, 40.0, 80.0, 160.0)

    config.loss.matching = 0.1

    # A mirrored object has the same class. The others would change the sizes, lose
    # lenders or hide the colors of a small object.
    config.augment.enabled = True
    config.augment.photometric = 0.0
    config.augment.expand = 0.0
    config.augment.crop = False

    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config
