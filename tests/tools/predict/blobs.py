"""A detector that finds blobs of pure color exactly, and scenes for it."""

import json
import pathlib
import types

import cv2
import numpy as np
import PIL.Image

from borrow_det.inference.detector import Detector
from borrow_det.io import paths
from borrow_det.tools.common import cli
from borrow_det.tools.predict import __main__ as predict

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0)}
CANVAS = (64, 64)


class BlobDetector(Detector):
    """A detector of the one blob of each class's color in a view, to the pixel."""

    def __init__(self, tolerance=0):
        self.class_names = tuple(COLORS)
        self.category_ids = (3, 9)
        self.canvas = self.input_size = CANVAS
        self.config = types.SimpleNamespace(
            nms=types.SimpleNamespace(iou=0.45),
            references=types.SimpleNamespace(kind="none"),
        )
        self.tolerance = tolerance
        self.shapes = []

    def compile_for(self, batch_size):
        pass

    def detect_canvases(self, images, image_size):
        self.shapes.append(images.shape)
        count = len(images)
        out = {
            "boxes": np.zeros((count, 3, 4), np.float32),
            "scores": np.zeros((count, 3), np.float32),
            "labels": np.zeros((count, 3), np.int32),
            "mask": np.zeros((count, 3), bool),
        }
        for i, (image, size) in enumerate(zip(images, image_size, strict=True)):
            for label, color in enumerate(COLORS.values()):
                distance = np.abs(image.astype(int) - color).max(axis=-1)
                places = np.argwhere(distance <= self.tolerance)
                if len(places):
                    low, high = places.min(axis=0), places.max(axis=0) + 1
                    out["boxes"][i, label] = np.concatenate([low / size, high / size])
                    out["scores"][i, label] = 0.9 - 0.3 * label
                    out["labels"][i, label] = label
                    out["mask"][i, label] = True
        return out


def scene(height, width, **boxes):
    """A gray RGB image with a blob at [x, y, width, height] of each color."""
    image = np.full((height, width, 3), 128, np.uint8)
    for name, (x, y, w, h) in boxes.items():
        image[y : y + h, x : x + w] = COLORS[name]
    return image


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path, **options)
    return str(path)


def run(output, *arguments):
    return cli.call(
        predict.main, ["predict", "--workdir=W", f"--output={output}", *arguments]
    )


def results(output):
    return json.loads((pathlib.Path(output) / "detections.json").read_text())


def boxes(output):
    return [result["bbox"] for result in results(output)]


def write_video(path, frames, code="MJPG", rate=12.0):
    """Writes frames, RGB; the name may be any bytes."""
    height, width, _ = frames[0].shape
    with paths.plain_name(path) as plain:
        writer = cv2.VideoWriter(
            plain, cv2.VideoWriter_fourcc(*code), rate, (width, height)
        )
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()


def parts(output):
    """The (detections, images) that a call has written so far."""
    names = ("detections.json.part", "images.json.part")
    found, listed = (json.loads((output / name).read_text()) for name in names)
    return [r["image_id"] for r in found], [i["id"] for i in listed["images"]]
