"""Every field of a run's configuration, with its default.

The other configs start from these defaults, and no other file has defaults. The values
are the paper's where it gives one, unless another one was better
(docs/method/open-choices.md); the others are commonly used to train SSD. To start a
run, use another config, such as configs/quickstart.py.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the complete configuration; other configs change fields, but add none."""
    config = ml_collections.ConfigDict()

    config.seed = 0
    config.task = "detection"  # "detection", or "classification" for pretraining.
    # 0: evaluate the initial parameters only. -1: num_epochs gives the number.
    config.num_steps = 60_000
    # Number of passes over the training split, with num_steps=-1; 0: num_steps counts.
    # On the command line, either of the two replaces the other.
    config.num_epochs = 0.0
    config.batch_size = 32  # Global batch size, over all devices and processes.
    config.eval_batch_size = 32
    # Number of images in one forward and backward pass of a device. The gradients of
    # the passes of a step are accumulated. 0: all images of the device in one pass.
    # With model.norm="batch", the statistics are those of one pass on all devices, so
    # that results depend on the number of devices.
    config.micro_batch = 0
    # Rematerialization: "none", or "trunk" to compute the feature maps of the trunk's
    # stages (VGG) or blocks again in the backward pass instead of storing them. "trunk"
    # needs less memory and more time; results are equal up to rounding.
    config.remat = "none"
    # Implementation of VGG's first stage: "plain"; "pairs", which combines the channels
    # of two columns for the wide matrix unit of a TPU
    # (models/column_pairs.py; not with model.norm="group" or an odd width); or "auto",
    # which is "pairs" on TPUs. Results are equal up to rounding.
    config.first_stage = "auto"
    config.input_size = (512, 512)  # (height, width) in pixels.
    # Compute type of convolutions and matmuls: "float32" or "bfloat16". Parameters are
    # always float32.
    config.dtype = "float32"
    # Initial parameters: the work directory of a run, the folder of an import
    # (tools/import_weights.py), or the name of published weights, which are downloaded:
    # torchvision/NAME, timm/NAME or hf://OWNER/NAME[@REVISION]. Parameters with the
    # same name and shape are used. "": random initialization.
    config.init_from = ""
    # Parameters to take from init_from: "all", "no_heads" (all except the prediction
    # layers) or "trunk".
    config.init_scope = "all"
    # Take the channel order and pixel statistics from init_from, too.
    config.init_normalization = True
    # Decay of the exponential moving average of the parameters, which is then
    # evaluated. 0: no average.
    config.ema_decay = 0.0
    # In steps, as the next two fields. Every evaluation has a line, too.
    config.log_every = 50
    config.eval_every = 5_000
    config.checkpoint_every = 1_000
    config.keep_checkpoints = 3  # Number of latest checkpoints to keep.
    # Metric that chooses the best checkpoint, which is kept in addition to the
    # latest ones: METRIC of the first evaluation split, such as "AP50"; SPLIT/METRIC;
    # "auto", which is AP_small of the first split if it has small objects and AP if
    # not, or top1 of classification; or "" for none.
    config.checkpoint_best = "auto"
    # Number of evaluations without a gain of that metric after which the run ends; 0:
    # it does all steps.
    config.stop_after = 0
    # Number of devices along each axis; -1: all remaining devices. Both axes divide the
    # batch. "fsdp" also shards parameters and optimizer state; "data" replicates them.
    config.mesh = {"data": -1, "fsdp": 1}

    config.dataset = _dataset()
    config.model = _model()
    config.borrow = _borrow()
    config.head = _head()
    config.references = _references()
    config.anchors = _anchors()
    config.loss = _loss()
    config.nms = _nms()
    config.augment = _augment()
    config.optimizer = _optimizer()
    config.schedule = _schedule()
    config.evaluation = _evaluation()
    config.report = _report()
    return config.lock()


def _dataset() -> ml_collections.ConfigDict:
    dataset = ml_collections.ConfigDict()
    # "scale_pairs", "scale_pairs_wide", "scale_pairs_clips", "folder" (your own
    # images), "object_pairs" (scenes of objects that are cut out of them), "voc",
    # "coco/2017", "wider_face", "kitti", or "imagenet2012" (classification only).
    dataset.name = "scale_pairs"
    # Folder with your images and annotations, for "folder" and "object_pairs".
    dataset.path = ""
    dataset.data_dir = ""  # Folder for prepared datasets; "": ~/tensorflow_datasets.
    # Side of the images of "scale_pairs" and "scale_pairs_clips", and of the scenes of
    # "scale_pairs_wide" and "object_pairs", in pixels.
    dataset.image_size = 256
    # Small objects of "object_pairs": "other" objects of the class than the large one,
    # or the "same" object again.
    dataset.instance = "other"
    dataset.train_split = "train"
    dataset.eval_splits = ("validation",)
    # (height, width) that images are padded to before they are sent to the device.
    # Larger images are shrunk to fit, with their aspect ratio.
    dataset.canvas = (512, 512)
    # Largest number of ground-truth boxes of an image; 0: that of the training split,
    # with copies of augment.paste, rounded up. It changes the shapes of the program,
    # but not its results, except that a copy needs a free row.
    dataset.max_boxes = 100
    # Images with more boxes: "error", "keep_largest" or "keep_first". Boxes that are
    # cut are counted and logged.
    dataset.overflow = "error"
    # Boxes without area, with infinite coordinates or outside the image: "error",
    # "clip" or "drop". Clipped and dropped boxes are counted.
    dataset.bad_boxes = "error"
    # Images of a folder that are missing or damaged, or have another size than their
    # annotations: "error" or "skip". Skipped images are counted.
    dataset.bad_images = "error"
    # Largest number of pixels of an image of a folder; 0: Pillow's limit against
    # decompression bombs, 179 million.
    dataset.max_pixels = 0
    # Share of the training images of a folder that is held out for validation, if there
    # is no validation split.
    dataset.held_out = 0.2
    # Number of folds for cross-validation on "folder": the images of the training and
    # the validation split are divided; a run evaluates `fold` and trains on the others.
    # 0: no folds.
    dataset.folds = 0
    dataset.fold = 0  # Counted from 0.
    # What groups the images: a field in the annotation file, such as "video", or a
    # regular expression for file names, such as "(.*)_", whose first group is equal for
    # the images of a group. Groups are held out, or in a fold, together. "": the first
    # of video_id, video, camera, sequence, seq_id and location that all images have.
    dataset.group = ""
    # Classification and "object_pairs" crop the boxes of objects. Margin around a box,
    # relative to its sides; and smallest side of a box, in pixels of the original
    # image.
    dataset.crop_context = 0.0
    dataset.min_crop_side = 1.0
    # Number of decoding threads of a process, ideally one per available core. Each
    # thread keeps up to two batches in memory.
    dataset.num_threads = 4
    dataset.num_workers = 0  # Number of decoding processes; 0: threads only.
    return dataset


def _model() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    # "vgg16", the trunk with the receptive fields of the paper (models/trunks/vgg.py);
    # "ssd300" or "ssd512", the trunks of SSD; "resnet18", "resnet34", "resnet50" or
    # "resnet101"; "convnext_tiny" or "convnext_small"; "vit_small" or "vit_base"
    # (patches of 16 pixels, with ViTDet's pyramid).
    model.trunk = "vgg16"
    model.width = 1.0  # Factor of all channel numbers of the trunk.
    # Number of layers (VGG) or blocks in each stage; for ViT, one number of blocks. ():
    # those of the named trunk.
    model.stages = ()
    # Normalization layers. VGG: "none" (as published weights), or "batch" or "group" to
    # train from scratch. ResNet: "batch", "group", or "frozen_batch", whose statistics
    # stay as init_from gives them, while scales and biases are trained. ConvNeXt and
    # ViT: "layer".
    model.norm = "none"
    model.group_size = 16  # Channels per group with norm="group".
    # Side of the windows of ViT's attention, in patches; 0: attention to all patches.
    model.window = 0
    # Number of ViT's blocks with attention to all patches, at equal distances, if
    # model.window is set. The last block is one of them.
    model.global_blocks = 4
    # Number of stages of the trunk, from the input on, whose parameters and batch
    # statistics stay as init_from gives them. VGG: 1 to 5 are its stages, 6 is fc6 and
    # fc7, and each further one is the layers of a deeper level. ResNet and ConvNeXt: 1
    # is the stem, 2 to 5 are the stages, 6 is the deepest level. ViT: 1 is the
    # embedding of patches, then each block, then the pyramid.
    model.frozen = 0
    # Initial scale of L2 normalization of each level before neck and heads; 0: no
    # normalization. (SSD: 20 on conv4_3; S3FD: 8 on conv4_3, 5 on conv5_3.)
    model.l2_scales = (0.0, 0.0, 0.0, 0.0)
    model.channel_order = "RGB"  # Order of the input channels: "RGB" or "BGR".
    # Pixel statistics in this order, for values in 0..255. These are ImageNet's.
    model.pixel_mean = (123.675, 116.28, 103.53)
    model.pixel_std = (58.395, 57.12, 57.375)
    # Initial bias of the background logit, with loss.classification="softmax". A
    # positive value saves the first steps, which otherwise learn that most anchors are
    # background.
    model.background_bias = 0.0
    # Dropout rate, for classification: after VGG's fc6 and fc7, or before the linear
    # layer of other trunks.
    model.dropout = 0.5
    return model


def _borrow() -> ml_collections.ConfigDict:
    borrow = ml_collections.ConfigDict()
    borrow.enabled = True  # FMB, FRB and the term relu(W[X, Z]) of the fusion.
    borrow.context = True  # The deconvolution term of the fusion.
    # Similarity of queries and keys: "embedded_gaussian" (dot product, the paper),
    # "scaled" (divided by sqrt(C)), "cosine" (with a learned temperature),
    # "dot_product" (divided by T, without softmax), or "query_independent" (global
    # pooling, a control that cannot match).
    borrow.similarity = "cosine"
    borrow.center = True  # Subtract the mean over positions from queries and keys.
    # Initial temperature of "cosine", a factor of the similarity.
    borrow.temperature = 10.0
    # Standardize descriptors over channels before queries and keys.
    borrow.normalize = False
    # Number of embedding channels; 0: that of the level, as in the paper. The default
    # is half of conv4_3's, as in non-local networks: at 512 pixels, inference takes
    # 1.09 times as long as plain SSD's, and 1.14 times with all channels.
    borrow.channels = 256
    # Number of channels of V and Z; 0: that of the embedding, as in the paper.
    borrow.value_channels = 0
    # Implementation of attention (ops/attention.py): "plain"; "blocks" of query_block
    # descriptors, which needs less memory; "cudnn" (NVIDIA GPUs, bfloat16); or "auto",
    # which is "cudnn" if possible and "blocks" otherwise. Results are equal up to
    # rounding.
    borrow.attention = "auto"
    borrow.query_block = 512
    # Levels that borrow, counted from 0. The deepest level has no source positions.
    borrow.levels = (0, 1, 2)
    # Source positions: "deeper" levels; "deconvolved", the deconvolved map of the next
    # level (discussed in the paper); or "same", the level itself (a non-local block).
    borrow.source = "deeper"
    # Levels to borrow from with source="deeper"; (): all deeper levels.
    borrow.from_levels = ()
    # Compute queries from X + D instead of X, so that they include context.
    borrow.after_context = False
    # Input of the deconvolution: "X" (trunk) or "Y" (fused map of the deeper level).
    borrow.context_from = "X"
    borrow.context_kernel = 2  # Kernel size of the stride-2 deconvolution.
    # Initialize the deconvolution with zeros, so that the network starts without
    # context. (The W of the fusion cannot start at zero: its gradient behind relu
    # would be zero.)
    borrow.zero_init_context = True
    # Predictions that see what a level borrows: "class" (boxes are predicted from
    # X + D; with context_from="Y", D has what the deeper level borrows), or "both"
    # (classes and boxes, the paper).
    borrow.heads = "class"
    return borrow


def _head() -> ml_collections.ConfigDict:
    head = ml_collections.ConfigDict()
    # Number of 3x3 convolutions, each with relu, before the 3x3 convolution that
    # predicts: one tower for the classes and one for the boxes. 0: none (SSD); 4:
    # RetinaNet.
    head.depth = 0
    # Channels of the towers and, with head.shared, of the 1x1 convolutions before them.
    head.channels = 256
    # One head for all levels (RetinaNet) instead of one for each (SSD). A 1x1
    # convolution gives every level head.channels channels first. All levels need the
    # same number of anchors per position.
    head.shared = False
    # Normalization layers of the towers: "none" (RetinaNet), or "group" with
    # model.group_size channels per group.
    head.norm = "none"
    # Initial score of every class, with loss.classification="focal". A small value
    # keeps the many negatives from dominating the first steps.
    head.prior = 0.01
    return head


def _references() -> ml_collections.ConfigDict:
    references = ml_collections.ConfigDict()
    # Images whose deeper levels are source positions, too, in training and evaluation
    # (with borrow.source="deeper"): "none"; "overview", the entire image for a tile of
    # it (augment.tile, evaluation.tiles); or "group", other images of the same video or
    # camera.
    references.kind = "none"
    references.count = 2  # Number of references of an image, for "group".
    # What groups the images, for "group": a field of the images in the annotation file;
    # or a regular expression for file names, such as "(.*)_", whose first group is
    # equal for the images of a group. "": as dataset.group. Without references, a field
    # only adds the metrics of lenders in the group.
    references.field = ""
    return references


def _anchors() -> ml_collections.ConfigDict:
    anchors = ml_collections.ConfigDict()
    anchors.strides = (8, 16, 32, 64)  # Of each level, in pixels of the input.
    # Size S_n of the first set of anchors on each level, in pixels of the input.
    anchors.sizes = (32.0, 64.0, 128.0, 256.0)
    # Aspect ratios (width / height) of the first set on each level.
    ratios = (1.0, 3.0**0.5, 3.0, 3.0**-0.5, 1.0 / 3.0)
    anchors.aspect_ratios = (ratios, ratios, ratios, (1.0, 3.0**0.5, 3.0**-0.5))
    # Aspect ratios of a second set with size sqrt(S_n S_{n+1}); (): no second set.
    anchors.second_aspect_ratios = (1.0,)
    # Size of the second set on the last level: "side" (the side of the input) or
    # "geometric" (sqrt(S_N S_{N+1}), as in SSD).
    anchors.second_last = "side"
    # S_{N+1} for "geometric", in pixels of the input; 0: the side of the input.
    anchors.next_size = 0.0
    # Position of the second set in the order of anchors and of the heads' channels:
    # after "all" anchors of the first set, or after its "first" (SSD's reference).
    anchors.second_after = "all"
    anchors.variances = (0.1, 0.2)  # For the encoding of centers and of log sizes.
    # Clipping of anchors to the image: "none"; "boxes" (clip the corners: an option of
    # Caffe's SSD that its configs do not use); or "sizes" (limit the sides and keep the
    # centers: torchvision).
    anchors.clip = "none"
    return anchors


def _loss() -> ml_collections.ConfigDict:
    loss = ml_collections.ConfigDict()
    loss.positive_iou = 0.5  # Smallest IoU of a positive anchor.
    # Every object gets its best anchor at any IoU. If several objects have the same
    # best anchor: "bipartite" (Caffe) assigns by falling IoU, and the others get the
    # best anchor that is left; "each" (torchvision) gives it to the last of them, and
    # the others may have no anchor.
    loss.best_anchor = "bipartite"
    # Anchors on crowds and difficult objects: "ignored" (neither positive nor
    # negative), "negative" (as if not annotated: torchvision, Caffe on COCO) or
    # "positive" (as on other objects: Caffe on VOC).
    loss.ignored = "ignored"
    # Loss of the classes. "softmax": cross-entropy over the classes and the background,
    # with hard negative mining (SSD); or "focal": sigmoid focal loss of each class over
    # all anchors that are not ignored (RetinaNet), divided by the number of positives
    # in the batch. The logits have no background then, and scores are sigmoids.
    loss.classification = "softmax"
    loss.focal_alpha = 0.25  # Weight of positives; negatives have 1 - alpha.
    loss.focal_gamma = 2.0  # Exponent that reduces the loss of easy anchors.
    loss.negatives_per_positive = 3.0  # Ratio of hard negative mining, for "softmax".
    # Smallest number of negatives of an image, for "softmax". With 0 (Caffe,
    # torchvision), images without objects do not contribute; with 3, they train the
    # background. The loss is divided by the number of positives in the batch, at
    # least 1.
    loss.min_negatives = 3
    # Loss of the boxes of positives: "smooth_l1" of the encoded offsets (SSD), or
    # "giou" or "ciou" of the decoded boxes, in pixels of the input.
    loss.box = "smooth_l1"
    loss.localization = 1.0  # Weight of the loss of boxes.
    # Weight of the matching loss; 0: no matching loss, as in the paper. A larger
    # weight makes matching easier to learn, at the expense of detection.
    loss.matching = 0.1
    # A lender has at least this many times the side of the object that borrows.
    loss.matching_scale = 2.0
    # The loss rewards attention inside "all" lenders together, or inside the
    # "most_attended" one: the lender with most of a descriptor's attention.
    loss.matching_lenders = "all"
    # Largest distance between the centers of an object and of a lender in its image
    # that the loss rewards: the larger one of the vertical and the horizontal distance,
    # in coordinates from 0 to 1. 1: any distance.
    loss.matching_reach = 1.0
    loss.label_smoothing = 0.1  # For classification.
    return loss


def _nms() -> ml_collections.ConfigDict:
    nms = ml_collections.ConfigDict()
    nms.score = 0.01  # Smallest score of a detection.
    # Clip boxes to the image "before" (torchvision) or "after" (Caffe) the suppression.
    nms.clip = "before"
    nms.iou = 0.45  # Boxes with a larger IoU with a better one are suppressed.
    nms.max_per_class = 400  # Number of candidates of a class, by score.
    nms.max_total = 200  # Number of detections of an image.
    return nms


def _augment() -> ml_collections.ConfigDict:
    augment = ml_collections.ConfigDict()
    augment.enabled = True
    augment.photometric = 0.5  # Probability of each photometric distortion.
    augment.brightness = 32.0  # Largest shift, for values in 0..255.
    augment.contrast = (0.5, 1.5)  # Range of the factor.
    augment.saturation = (0.5, 1.5)  # Range of the factor.
    augment.hue = 18.0  # Largest rotation, in degrees.
    augment.expand = 0.5  # Probability of expansion.
    augment.max_expand = 4.0  # Largest side after expansion, relative to the image.
    augment.crop = True
    # Smallest IoUs of the samplers of SSD's crop; there is also one without a minimum.
    augment.crop_ious = (0.1, 0.3, 0.5, 0.7, 0.9)
    augment.crop_tries = 50  # Number of candidates of each sampler.
    augment.min_crop = 0.3  # Smallest side of a crop, relative to the image.
    # Area relative to the image, and width over height, of crops for classification.
    augment.crop_area = (0.08, 1.0)
    augment.crop_aspect = (3 / 4, 4 / 3)
    augment.flip = 0.5  # Probability of a horizontal flip.
    # Train on tiles: windows of the input's size at the scale of the original image, in
    # place of expansion and crop. dataset.canvas must hold the images at that scale.
    augment.tile = False
    # Range of the scale of a tile, relative to the original image; uniform in the
    # logarithm.
    augment.tile_zoom = (0.8, 1.25)
    # Probability that a tile contains the center of a random object. Other tiles are
    # anywhere in the image, possibly without objects.
    augment.tile_objects = 0.75
    # Probability that the entire image takes the place of a tile.
    augment.tile_whole = 0.1
    # Probability that an image gets small copies of its larger objects, where no object
    # is. They are pasted into the network's input after all other changes.
    augment.paste = 0.0
    augment.paste_count = 3  # Largest number of copies in an image.
    # Range of the longer side of a copy, in pixels of the input; uniform in the
    # logarithm.
    augment.paste_sides = (8.0, 32.0)
    # The original of a copy has at least this many times its side. With
    # loss.matching_scale or more, it is a lender in the matching loss.
    augment.paste_scale = 2.0
    # Width of the soft edge inside a copy, relative to its height and width.
    augment.paste_edge = 0.1
    augment.paste_flip = 0.5  # Probability that a copy is mirrored horizontally.
    return augment


def _optimizer() -> ml_collections.ConfigDict:
    optimizer = ml_collections.ConfigDict()
    optimizer.name = "sgd"  # "sgd" or "adamw".
    optimizer.learning_rate = 1e-3
    optimizer.trunk_rate = 1.0  # Factor of rate and decay in the trunk.
    # Further factor for every stage of the trunk (see model.frozen) but the last: this
    # number for the stage before it, its square for the next one towards the input, and
    # so on.
    optimizer.layer_decay = 1.0
    optimizer.momentum = 0.9  # For "sgd".
    optimizer.b1 = 0.9  # For "adamw".
    optimizer.b2 = 0.999  # For "adamw".
    optimizer.weight_decay = 5e-4  # For kernels; biases and scales do not decay.
    optimizer.clip_norm = 0.0  # Largest global norm of the gradient; 0: no clipping.
    return optimizer


def _schedule() -> ml_collections.ConfigDict:
    schedule = ml_collections.ConfigDict()
    schedule.name = "step"  # "step" or "cosine".
    schedule.warmup_steps = 500  # Number of steps of linear warm-up.
    # For "step": the learning rate is multiplied by factor after these shares of
    # num_steps.
    schedule.boundaries = (0.67, 0.83)
    schedule.factor = 0.1
    # Steps at which warm-up and schedule start anew, each time over the steps until the
    # next of them or num_steps. A run that is extended by "restart" adds one itself.
    schedule.restarts = ()
    # Schedule of a finished run that gets more steps: "restart", warm-up and schedule
    # anew over the added steps; "continue", the schedule of the longer run from the
    # present step on; or "" to be asked.
    schedule.extend = ""
    return schedule


def _evaluation() -> ml_collections.ConfigDict:
    evaluation = ml_collections.ConfigDict()
    # Number of detections of an image and class that count; COCO's default is 100.
    evaluation.max_detections = 100
    # Pixels of the area ranges (small, medium, large): "original" image (COCO), or
    # "input" of the network, for images that are much larger. With "input", runs with
    # different input_size have different small objects.
    evaluation.area_pixels = "original"
    # Evaluate overlapping tiles and the entire image, and merge their detections
    # (tiling/merging.py): "auto", tiles of the input's size in images larger than that;
    # "ROWSxCOLUMNS"; or "", the entire image only. Metrics are those of entire images.
    evaluation.tiles = ""
    # Overlap of neighboring tiles as a fraction of a side.
    evaluation.tile_overlap = 0.2
    # A lender of a small object has at least this many times its side.
    evaluation.lender_scale = 2.0
    evaluation.voc = False  # Compute VOC's 11-point and all-point AP, too.
    # Share of the shorter side of an image that classification evaluates, at the
    # center.
    evaluation.crop_share = 0.875
    return evaluation


def _report() -> ml_collections.ConfigDict:
    report = ml_collections.ConfigDict()
    # Number of annotated pictures of each evaluation: the images with the most errors,
    # with small objects, with the fewest errors, around the median number of errors,
    # and with the most errors of each kind and class. 0: no pictures.
    report.num_pictures = 8
    # Smallest score of a detection in the pictures; 0: the score of the best F1 of the
    # evaluation, or all scores if there is none.
    report.min_score = 0.0
    # Number of random training images, with their ground truth, in contact_sheet.jpg;
    # 0: no sheet.
    report.contact_sheet = 0
    # At the end of a run, plot the learning curves, and the curves and confusion matrix
    # of the last and the best step.
    report.curves = True
    # Largest number of images in the results page of an evaluation; 0: no page.
    report.page_images = 48
    # Loggers that get the configuration, the metrics and the pictures, too: "wandb"
    # (Weights & Biases) and "mlflow", each with the extra of its name.
    report.loggers = ()
    return report
