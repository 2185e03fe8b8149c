"""Every field of a run, with the default that the other configs start from.

This file is the only place where a default stands. The values are those of the
paper where it gives one (input 512 is ours: the paper names none); the others are
what the field trains SSD with. It is not run by itself: see configs/quickstart.py.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the full configuration; overlays change fields, they never add any."""
    config = ml_collections.ConfigDict()

    config.seed = 0
    config.task = "detection"  # Or classification (pretraining): borrow_det/tasks.
    config.num_steps = 60_000  # 0: evaluates the parameters that the run starts from.
    config.batch_size = 32  # Global: over all devices and processes.
    config.eval_batch_size = 32
    # Images in one forward and backward pass of a device; gradients accumulate over
    # the passes of a step. 0: the device's whole share of the batch at once. With
    # model.norm=batch, statistics are those of a pass on all devices, so that the run
    # depends on their number.
    config.micro_batch = 0
    # none; or trunk: the maps of VGG's five stages are computed again for the gradient,
    # instead of kept from the forward pass. The same numbers to rounding, for less
    # memory and more time.
    config.remat = "none"
    # How the trunk's first stage is computed, equal but for rounding: plain; pairs, of
    # two columns as one with the channels of both, for a TPU's wide matrix unit
    # (models/column_pairs.py; not of model.norm=group or an odd width); or auto, pairs
    # on TPUs.
    config.first_stage = "auto"
    config.input_size = (512, 512)  # (height, width) in pixels.
    config.dtype = "float32"  # Compute type of convolutions and matmuls; or bfloat16.
    # Work directory of a run, or an import (tools/import_weights.py), whose parameters
    # to start from: those of equal name and shape.
    config.init_from = ""
    config.init_scope = "all"  # all, no_heads (all but the prediction layers) or trunk.
    # The channel order, mean and scale are those of init_from, too.
    config.init_normalization = True
    config.ema_decay = 0.0  # 0: off. When on, the averaged parameters are evaluated.
    config.log_every = 50
    config.eval_every = 5_000
    config.checkpoint_every = 1_000
    config.keep_checkpoints = 3
    # Devices along each axis; -1: all that are left. Both split the batch; fsdp splits
    # parameters and the optimizer's state, too, data replicates them.
    config.mesh = {"data": -1, "fsdp": 1}

    config.dataset = _dataset()
    config.model = _model()
    config.borrow = _borrow()
    config.anchors = _anchors()
    config.loss = _loss()
    config.nms = _nms()
    config.augment = _augment()
    config.optimizer = _optimizer()
    config.schedule = _schedule()
    config.evaluation = _evaluation()
    config.report = _report()
    return config.lock()


def _dataset():
    dataset = ml_collections.ConfigDict()
    # scale_pairs, coco_folder, voc, coco/2017, wider_face, kitti or, for classification
    # alone, imagenet2012: data/sources.py.
    dataset.name = "scale_pairs"
    dataset.path = ""  # The folder of coco_folder; unused by the others.
    dataset.data_dir = ""  # Where TFDS keeps prepared sets; "": TFDS's own default.
    dataset.image_size = 256  # Side of scale_pairs' images, in pixels.
    dataset.train_split = "train"
    dataset.eval_splits = ("validation",)
    # Images travel to the device padded to this (height, width); larger ones are
    # area-averaged down, keeping their aspect ratio, until they fit.
    dataset.canvas = (512, 512)
    dataset.max_boxes = 100  # Ground-truth boxes an image (G of the batch).
    # An image with more: error, keep_largest or keep_first (counted and logged).
    dataset.overflow = "error"
    # Zero-area, non-finite or out-of-image boxes: error, clip or drop (counted).
    dataset.bad_boxes = "error"
    # Classification takes each object's box as an image, with this share of its sides
    # around it; objects with a side of fewer pixels, of the original, are left out.
    dataset.crop_context = 0.0
    dataset.min_crop_side = 1.0
    # Decoding threads of this process: one for each core that is to decode. Each holds
    # up to two batches ready. README.md, "Waiting for data", has rates.
    dataset.num_threads = 4
    dataset.num_workers = 0  # Decoding processes beside it; 0: threads only.
    return dataset


def _model():
    model = ml_collections.ConfigDict()
    # vgg16, the trunk of the paper's receptive fields (models/trunks/vgg.py); or SSD's own,
    # ssd300 or ssd512 (models/trunks/ssd.py).
    model.trunk = "vgg16"
    model.width = 1.0  # Multiplies every trunk channel count.
    model.stages = (2, 2, 3, 3, 3)  # 3x3 convolutions a stage; VGG-16's own.
    # none (what pretrained weights need), group or batch (training from scratch).
    model.norm = "none"
    model.group_size = 16  # Channels a group when norm is group.
    # Initial scale of L2 normalisation on each level as neck and heads see it; 0
    # leaves it as it is (SSD: 20 on conv4_3; S3FD: 8 on conv4_3, 5 on conv5_3).
    model.l2_scales = (0.0, 0.0, 0.0, 0.0)
    model.channel_order = "RGB"  # In which the network takes an image: RGB or BGR.
    # In that order, in units of 0..255. The defaults are ImageNet's.
    model.pixel_mean = (123.675, 116.28, 103.53)
    model.pixel_std = (58.395, 57.12, 57.375)
    # Added to the background logit at the start, so that the first steps are not
    # spent on learning that most anchors are empty.
    model.background_bias = 0.0
    model.dropout = 0.5  # Of classification, after fc6 and fc7.
    return model


def _borrow():
    borrow = ml_collections.ConfigDict()
    borrow.enabled = True  # FMB, FRB and the fusion's relu(W[X, Z]) term.
    borrow.context = True  # The fusion's deconvolution term.
    # embedded_gaussian (raw dot product), scaled (1/sqrt(C)), cosine (learned
    # temperature), dot_product (divided by T, no softmax) or query_independent (global
    # pooling: the control that cannot match).
    borrow.similarity = "cosine"
    borrow.center = True  # Subtract the mean over positions from queries and keys.
    borrow.temperature = 10.0  # Initial value; multiplies the cosine.
    # Queries and keys from descriptors of zero mean and unit variance over channels.
    borrow.normalize = False
    # Embedding channels; 0: those of the level (the paper). Half of conv4_3's, as in
    # non-local networks: the whole is then 1.09 times plain SSD's time at 512 pixels,
    # with all of them 1.14 (RESULTS.md).
    borrow.channels = 256
    borrow.value_channels = 0  # Of V and Z; 0: as many as the embedding (the paper).
    # How the weighted sum is computed, equal but for rounding (ops/attention.py):
    # plain; blocks of query_block descriptors (less memory); cudnn (NVIDIA GPUs, in
    # bfloat16); auto (cudnn where it runs, else blocks).
    borrow.attention = "auto"
    borrow.query_block = 512
    borrow.levels = (0, 1, 2)  # Which levels borrow; the last has none below it.
    # deeper; deconvolved (the paper's discussion); same (a plain non-local block).
    borrow.source = "deeper"
    borrow.from_levels = ()  # Of deeper, those that are borrowed from; (): all.
    # X + D in place of X is what borrows, so that queries know their context.
    borrow.after_context = False
    borrow.context_from = "X"  # The deconvolution's input: X (trunk) or Y (fused).
    borrow.context_kernel = 2  # Of the stride-2 deconvolution.
    # The deconvolution starts at zero: the network then starts from X plus what it
    # borrows. The fusion's W never does (its gradient behind relu would be zero).
    borrow.zero_init_context = True
    return borrow


def _anchors():
    anchors = ml_collections.ConfigDict()
    anchors.strides = (8, 16, 32, 64)
    anchors.sizes = (32.0, 64.0, 128.0, 256.0)  # First set, pixels of the input.
    # Aspect ratio = width / height.
    ratios = (1.0, 3.0**0.5, 3.0, 3.0**-0.5, 1.0 / 3.0)
    anchors.aspect_ratios = (ratios, ratios, ratios, (1.0, 3.0**0.5, 3.0**-0.5))
    # Second set, sqrt(S_n S_{n+1}) at these aspect ratios; () leaves the set out.
    anchors.second_aspect_ratios = (1.0,)
    # Its last size: side (the input's side) or geometric (sqrt(S_N S_{N+1}), as SSD).
    anchors.second_last = "side"
    # S_{N+1} of geometric, pixels of the input; 0: the input's side.
    anchors.next_size = 0.0
    # Where the second set stands in the order of a position's anchors, and so of the
    # heads' channels: after all of the first set, or after its first (SSD's reference).
    anchors.second_after = "all"
    anchors.variances = (0.1, 0.2)  # Of centres and of log sizes.
    # none; boxes (corners cut at the image's border: the option of Caffe's SSD, off in
    # its configs); sizes (sides cut to the image's, centres stay: torchvision). none:
    # an anchor keeps its position's centre, and the sides that objects may have.
    anchors.clip = "none"
    return anchors


def _loss():
    loss = ml_collections.ConfigDict()
    loss.positive_iou = 0.5
    # Several objects may be nearest to one anchor. bipartite (Caffe): by falling
    # overlap each takes the best one that is left; each (torchvision): each claims its
    # best, at any overlap, and the last object has it. bipartite: none goes without.
    loss.best_anchor = "bipartite"
    # Anchors in crowds and on difficult objects: ignored (neither positive nor
    # negative), negative (as if not annotated: torchvision, Caffe on COCO) or
    # positive (objects like others: Caffe on VOC).
    loss.ignored = "ignored"
    loss.negatives_per_positive = 3.0
    # Mined in an image with fewer positives, or none. 0 is Caffe's and torchvision's:
    # images without objects then train nothing; 3: they train the background. All
    # divide by the positives of the batch, at least 1.
    loss.min_negatives = 3
    loss.localization = 1.0  # Weight of the smooth L1 term.
    # Weight of the matching loss; 0: the paper. More teaches matching sooner, and takes
    # more from finding objects (RESULTS.md).
    loss.matching = 0.1
    loss.matching_scale = 2.0  # A source has at least this many times the side.
    # Classification: this share of the target is spread evenly over all classes.
    loss.label_smoothing = 0.1
    return loss


def _nms():
    nms = ml_collections.ConfigDict()
    nms.score = 0.01
    # Boxes are cut at the image's border before the suppression (torchvision; what is
    # outside then tells no boxes apart) or after it (Caffe).
    nms.clip = "before"
    nms.iou = 0.45
    nms.max_per_class = 400
    nms.max_total = 200
    return nms


def _augment():
    augment = ml_collections.ConfigDict()
    augment.enabled = True
    augment.photometric = 0.5  # Probability of each distortion.
    augment.brightness = 32.0  # Largest shift, of 255.
    augment.contrast = (0.5, 1.5)
    augment.saturation = (0.5, 1.5)
    augment.hue = 18.0  # Largest rotation, degrees.
    augment.expand = 0.5  # Probability.
    augment.max_expand = 4.0  # Largest side of the expanded canvas, in images.
    augment.crop = True
    augment.crop_ious = (0.1, 0.3, 0.5, 0.7, 0.9)  # Beside these: any, and whole.
    augment.crop_tries = 50
    augment.min_crop = 0.3  # Smallest side of a crop, in images.
    # Of classification's crops: their share of the image, and width over height.
    augment.crop_area = (0.08, 1.0)
    augment.crop_aspect = (3 / 4, 4 / 3)
    augment.flip = 0.5  # Probability.
    return augment


def _optimizer():
    optimizer = ml_collections.ConfigDict()
    optimizer.name = "sgd"  # sgd or adamw.
    optimizer.learning_rate = 1e-3
    optimizer.momentum = 0.9  # sgd
    optimizer.b1 = 0.9  # adamw
    optimizer.b2 = 0.999  # adamw
    optimizer.weight_decay = 5e-4  # Kernels only: not on biases and scales.
    optimizer.clip_norm = 0.0  # Global norm of the gradient; 0: off.
    return optimizer


def _schedule():
    schedule = ml_collections.ConfigDict()
    schedule.name = "step"  # step or cosine.
    schedule.warmup_steps = 500
    schedule.boundaries = (0.67, 0.83)  # step: shares of num_steps ...
    schedule.factor = 0.1  # ... at which the rate is multiplied by this.
    return schedule


def _evaluation():
    evaluation = ml_collections.ConfigDict()
    evaluation.max_detections = 100  # maxDets; COCO's 100 is the default, not a limit.
    # Pixels in which an object is small, medium or large: of the original image (COCO),
    # or of the network's input, for images that are much larger than it. Small objects
    # of runs with another input_size are then others.
    evaluation.area_pixels = "original"
    # A lender of a small object: an object of its class with this many times its side.
    evaluation.lender_scale = 2.0
    evaluation.voc = False  # VOC 11-point and all-point AP beside COCO's.
    # Classification sees the image's centre: this share of its shorter side.
    evaluation.crop_share = 0.875
    return evaluation


def _report():
    report = ml_collections.ConfigDict()
    report.num_pictures = 8  # Annotated pictures an evaluation leaves.
    report.min_score = 0.4  # Of a box that is drawn.
    report.contact_sheet = 0  # Training scenes, ground truth drawn, on one sheet.
    report.curves = True  # Plots of metrics.jsonl at the end of a run.
    return report
