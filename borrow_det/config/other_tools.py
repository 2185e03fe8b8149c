"""Flags of other detectors' commands, answered with ours.

They are those of the command lines and demos of Ultralytics, YOLOv5, MMDetection,
Detectron2 and SAHI.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple


class _Answer(NamedTuple):
    """Flags of other tools, and ours in their place.

    Attributes:
      names: the other flags, without dashes and with underscores.
      choices: (flag, text) pairs. The text of the first flag that a command has is the
        answer; a flag "" fits every command.
    """

    names: str
    choices: tuple[tuple[str, str], ...]


_RUN = "--workdir=W, the work directory of a trained run"
_INPUTS = "the images alone, without a flag"
_JAX_PLATFORMS = "JAX_PLATFORMS=cpu (or cuda, tpu) in front of the command"
_ANSWERS = tuple(
    _Answer(*parts)
    for parts in (
        (
            "conf conf_thres conf_thresh confidence_threshold pred_score_thr score_thr "
            "model_confidence_threshold score_threshold threshold",
            (("score", "--score=S"),),
        ),
        (
            "source input inputs image images img_path image_path video video_input",
            (("tiles", _INPUTS), ("detection", _INPUTS)),
        ),
        ("webcam camera cam_id camera_id", (("tiles", "0, the index of the camera"),)),
        (
            "weights model model_path model_weight checkpoint ckpt pretrained",
            (("config", "--config.init_from=FOLDER"), ("workdir", _RUN)),
        ),
        (
            "cfg cfg_file config_file model_config_path",
            (("config", "--config=NAME"), ("workdir", _RUN)),
        ),
        ("cfg_options opts", (("config", "--config.FIELD=VALUE"),)),
        (
            "imgsz img img_size image_size input_size size",
            (
                ("config", "size=N in --config=folder:path=DIR,size=N"),
                (
                    "tile_size",
                    "--tile_size=N for images that are larger than the run's input",
                ),
            ),
        ),
        ("slice_size slice_height slice_width", (("tile_size", "--tile_size=N"),)),
        ("overlap_height_ratio overlap_width_ratio", (("overlap", "--overlap=SHARE"),)),
        (
            "iou iou_thres iou_thresh nms_iou nms_thr",
            (("workdir", "--config.nms.iou=IOU in training, which the run keeps"),),
        ),
        (
            "max_det max_detections topk",
            (("workdir", "--config.nms.max_total=N in training, which the run keeps"),),
        ),
        (
            "project name out out_dir out_file save_dir output_dir work_dir exist_ok",
            (("config", "--workdir=W"), ("output", "--output=DIR")),
        ),
        (
            "save_txt save_conf save_json save_csv out_json no_save_pred",
            (("tiles", "--output=DIR: detections.json in it has all boxes"),),
        ),
        (
            "save save_img save_frames show view_img show_img",
            (("pictures", "--output=DIR: pictures/ in it has the annotated images"),),
        ),
        ("nosave no_save no_save_vis novisual", (("pictures", "--nopictures"),)),
        ("verbose print_result", (("quiet", "--quiet or nothing"),)),
        (
            "batch batch_size ims_per_batch",
            (("batch", "--batch=N"), ("config", "--config.batch_size=N")),
        ),
        ("device gpu gpus gpu_id gpu_ids model_device", (("", _JAX_PLATFORMS),)),
        ("half fp16 amp", (("config", "--config.dtype=bfloat16"),)),
        (
            "epochs epoch max_epochs",
            (("config", "--config.num_epochs=N"),),
        ),
        ("max_iter iterations", (("config", "--config.num_steps=N"),)),
        ("patience", (("config", "--config.stop_after=N, in evaluations"),)),
        (
            "lr lr0 learning_rate base_lr",
            (("config", "--config.optimizer.learning_rate=RATE"),),
        ),
        (
            "data data_dir data_path data_root dataset",
            (("config", "--config=folder:path=DIR"), ("split", "--path=DIR")),
        ),
        ("seed random_seed", (("config", "--config.seed=N"),)),
        ("workers num_workers", (("config", "--config.dataset.num_workers=N"),)),
        ("resume", (("config", "the same command again, which resumes"),)),
    )
)
_CHOICES = {name: each.choices for each in _ANSWERS for name in each.names.split()}


def answer(arguments: Sequence[str], known: Collection[str]) -> str | None:
    """Returns a sentence with our forms of the flags that other commands have.

    Args:
      arguments: a command line without the name of the program.
      known: names of the flags that the command has.

    Returns:
      None if no argument is a flag of another command.
    """
    names: dict[str, str] = {}
    for argument in arguments:
        flag = re.match(r"--?([A-Za-z][\w-]*)", argument)
        if flag is not None and flag[1] not in known:
            ours = _ours(flag[1], known)
            if ours is not None:
                names[argument.partition("=")[0]] = ours
    if not names:
        return None
    verb = "is a flag" if len(names) == 1 else "are flags"
    return f"{_listed(names)} {verb} of other tools: write " + "; ".join(
        dict.fromkeys(names.values())
    )


def answer_without_dashes(argument: str, known: Collection[str]) -> str | None:
    """Returns a sentence about an argument such as conf=0.5; None for other ones.

    Args:
      argument: an argument that is neither a flag nor an existing file.
      known: names of the flags that the command has.
    """
    name, equals, value = argument.partition("=")
    if not equals or not name.isidentifier():
        return None
    if name in known:
        return f"{argument}: flags begin with dashes: write --{name}={value}"
    ours = _ours(name, known)
    return None if ours is None else f"{argument} is of other tools: write {ours}"


def _ours(name: str, known: Collection[str]) -> str | None:
    choices = _CHOICES.get(name.replace("-", "_").lower(), ())
    return next((text for flag, text in choices if not flag or flag in known), None)


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
