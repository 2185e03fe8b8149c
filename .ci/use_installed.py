"""Uses an installed borrow_det from the current folder, as its users would.

It writes a folder of images, then trains, evaluates and predicts with the console
command and from Python.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image

SIDE = 128
OVERRIDES = (
    "--config.dataset.data_dir=prepared",
    "--config.log_every=2",
    "--config.model.width=0.03125",
    "--config.report.num_pictures=1",
    "--config.batch_size=2",
)


def write_images(folder: pathlib.Path) -> None:
    """Writes a COCO dataset of grey images with one or two white squares each."""
    (folder / "annotations").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        images, annotations = [], []
        for number in range(count):
            pixels = rng.integers(60, 120, (SIDE, SIDE, 3), np.uint8)
            for side, corner in ((16, 8), (48, 64)):
                pixels[corner : corner + side, corner : corner + side] = 255
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number + 1,
                        "category_id": 1,
                        "bbox": [corner, corner, side, side],
                    }
                )
            name = f"{split}_{number}.png"
            PIL.Image.fromarray(pixels).save(folder / name)
            images.append(
                {"id": number + 1, "file_name": name, "width": SIDE, "height": SIDE}
            )
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "square"}],
        }
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))


def run(*command: str) -> str:
    """Runs a command that has to succeed; returns what it printed to stdout."""
    print("+", *command, flush=True)
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        sys.exit(f"{process.stdout}exit status {process.returncode}")
    return process.stdout


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns the content of every file in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def main() -> None:
    """Exits with a message at the first thing that does not work."""
    if importlib.util.find_spec("configs"):
        sys.exit("the distribution brings a top-level package named configs")
    from borrow_det.__main__ import COMMANDS

    if run("borrow-det", "--help") != run(sys.executable, "-m", "borrow_det", "--help"):
        sys.exit("borrow-det and python -m borrow_det differ")
    for command in COMMANDS:
        if "--" not in run("borrow-det", command, "--help"):
            sys.exit(f"borrow-det {command} --help lists no flags")

    photos, workdir = pathlib.Path("photos"), pathlib.Path("run")
    write_images(photos)
    config = f"--config=folder_narrow:path=photos,size={SIDE},steps=4"
    run("borrow-det", "train", config, f"--workdir={workdir}", *OVERRIDES)
    trained = files_of(workdir)
    run(
        *("borrow-det", "evaluate", f"--workdir={workdir}", "--split=val"),
        "--output=scores",
    )
    if not any(pathlib.Path("scores").rglob("*.json")):
        sys.exit("borrow-det evaluate wrote no metrics")
    picture = "photos/val_0.png"
    run("borrow-det", "predict", f"--workdir={workdir}", "--output=found", picture)
    written = json.loads(pathlib.Path("found/detections.json").read_text())

    from borrow_det import Detector

    detector = Detector.load(str(workdir))
    found = detector(picture)
    if found.image_size != (SIDE, SIDE) or found.class_names != ("square",):
        sys.exit(f"detections of {found.image_size}, {found.class_names}")
    records = found.to_coco()
    fields = ("category_id", "bbox", "score")
    if not records or [[r[name] for name in fields] for r in records] != [
        [r[name] for name in fields] for r in written
    ]:
        sys.exit(f"Python detects {records}, borrow-det predict {written}")
    if files_of(workdir) != trained:
        sys.exit(f"{workdir} was changed by what only reads it")
    print(f"{len(found)} detections, the same from Python and from predict")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Compiling takes most of the time; the programs run for no time anyway.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    main()
