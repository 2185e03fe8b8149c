"""Pretraining of VGG-16 on ImageNet, to initialize the trunk of a detector.

    pip install -r requirements-tf.txt  # Once, to prepare the dataset.
    python -m borrow_det.main --config=configs/imagenet_vgg16.py:norm=batch \
        --workdir=W --config.dataset.data_dir=DATA
    python -m borrow_det.main --config=configs/voc.py --workdir=V \
        --config.init_from=W --config.init_scope=trunk

Arguments: norm=none (normalization of the trunk: none, as in the paper, or batch, as in
the detector above), width=1.0 (width of the trunk; both must be those of the detector),
epochs=74, batch=256.

ImageNet cannot be downloaded automatically. Register at
https://image-net.org/download-images, download `ILSVRC2012_img_train.tar` (138 GiB) and
`ILSVRC2012_img_val.tar` (6.3 GiB), and move both, without unpacking them, to
DATA/downloads/manual (DATA is ~/tensorflow_datasets unless dataset.data_dir is set).
The first run prepares TFDS's imagenet2012 from them, in one process, before it trains.
This needs TensorFlow and the same disk space again. The archives can be deleted
afterwards.

The recipe is VGG's: batches of 256, SGD with momentum 0.9, weight decay 5e-4, learning
rate 0.01, dropout 0.5, 74 epochs (370,000 steps). VGG divided the learning rate by 10
three times, by hand; this config does so at 40, 70 and 90 % of the run. Other
differences: He initialization and a warm-up (VGG started from a shallower network),
random resized crops (VGG cropped at a fixed scale), and label smoothing. Cost and
accuracy were not measured.
"""

import ml_collections

from borrow_det.configs import arguments, base

_TRAIN_IMAGES = 1_281_167


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, norm="none", width=1.0, epochs=74, batch=256)
    config = base.get_config()
    config.task = "classification"
    config.batch_size = args.batch
    config.eval_batch_size = 256
    config.num_steps = args.epochs * _TRAIN_IMAGES // config.batch_size
    config.input_size = (224, 224)
    config.log_every = 100

    config.dataset.name = "imagenet2012"
    config.dataset.eval_splits = ("validation",)
    config.dataset.canvas = (512, 512)  # Most images are 500 x 375.
    config.dataset.num_threads = 16

    config.model.norm = args.norm
    config.model.width = args.width

    config.augment.photometric = 0.0
    config.augment.crop_tries = 10
    config.optimizer.learning_rate = 1e-2
    config.schedule.boundaries = (0.4, 0.7, 0.9)
    config.schedule.warmup_steps = 5_000  # One epoch.
    return config
