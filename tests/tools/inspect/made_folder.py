"""Folders of made images with COCO annotation files."""

import json

import numpy as np
import PIL.Image

# Names of classes and files that a page must not run.
NASTY = "<script>document.title = 'run'</script><img src=x onerror=alert(1)>"
HOSTILE_CLASSES = (NASTY, "企鹅", "पफिन", "قرش", '@STYLE@ & "cat"')
HOSTILE_FILES = (
    "<img src=x onerror=document.title=1>.png",
    "鱼 '1'.png",
    "a.png",
    "b.png",
)


def write_split(
    folder, name, images, side=512, names=("cat", "dog"), files=None, fields=None
):
    """Writes images with (class, x, y, width, height, extra fields) boxes.

    `files` has the file name and the content, uint8 RGB, of each image (default: blank
    images), and `fields` further fields of each image.
    """
    coco = {"images": [], "annotations": []}
    coco["categories"] = [{"id": i, "name": n} for i, n in enumerate(names, start=1)]
    for i, boxes in enumerate(images):
        if files is None:
            file_name = f"{name}{i}.png"
            PIL.Image.new("L", (side, side)).save(folder / file_name)
        else:
            file_name, content = files[i]
            PIL.Image.fromarray(content).save(folder / file_name)
        image = {"id": i, "file_name": file_name, "width": side, "height": side}
        coco["images"].append(image | (fields[i] if fields else {}))
        for category, x, y, width, height, *more in boxes:
            annotation = {
                "id": len(coco["annotations"]),
                "image_id": i,
                "category_id": category,
                "bbox": [x, y, width, height],
            }
            coco["annotations"].append(annotation | dict(*more))
    (folder / f"{name}.json").write_text(json.dumps(coco))


def scenes(count, side=256, seed=0):
    """Smooth random scenes, uint8 RGB, each different from the others."""
    rng = np.random.default_rng(seed)
    return [
        np.asarray(
            PIL.Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize(
                (side, side), PIL.Image.Resampling.BICUBIC
            )
        )
        for _ in range(count)
    ]
