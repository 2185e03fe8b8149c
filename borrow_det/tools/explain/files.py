"""What tools.explain leaves: numbers, pictures, and a page to look through them."""

import contextlib
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TextIO

import numpy as np

from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.tools.explain import picture as picture_lib
from borrow_det.tools.explain.explanation import Borrowed, Found
from borrow_det.tools.explain.page import Page, class_colors
from borrow_det.tools.explain.text import Settings, readable
from borrow_det.visualization import annotate

_STEM = 100  # Bytes of a file's name that its pictures' names take over.
_PICTURE = re.compile(r"\d{4,}_.*_\d+\.jpg")  # What `_draw` names pictures.
_LARGE = 100e6  # Bytes of a page that takes its time to open.


class Explained(NamedTuple):
    """A detection that was to be explained."""

    index: int  # Among the image's detections.
    borrowed: Borrowed | None
    note: str  # Why there is nothing, where there is nothing.


class Output:
    """The files of a run of this tool, written image by image.

    A context, at the end of which they are whole, or gone if it ends with an error.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        detector: Detector,
        settings: Settings,
        pictures: bool,
        limit: int,
    ):
        """Creates the folder.

        Args:
          folder: where everything goes.
          detector: whose classes and levels are named.
          settings: what explanations are made with.
          pictures: whether to draw.
          limit: pictures an image; 0: all.

        Raises:
          InputError: the folder cannot be made or written to, here or later.
        """
        self._folder, self._detector, self._settings = folder, detector, settings
        self._class_names = [readable(name) for name in detector.class_names]
        self._pictures, self._limit = pictures, limit
        self._images = self._detections = self._explained = self._without = 0
        self._drawn: set[str] = set()
        self._left_out = 0
        self._page_path = folder / "index.html"
        self._json_path = folder / "explanations.json"
        with self._writing(), contextlib.ExitStack() as opened:
            folder.mkdir(parents=True, exist_ok=True)
            for path in (self._page_path, self._json_path):
                if path.is_dir():
                    raise InputError(f"{path} is a folder: name another --output")
            if pictures:
                (folder / "pictures").mkdir(exist_ok=True)
            # Written as they come: those of a large folder would fill the memory.
            self._json = opened.enter_context(whole_file(self._json_path))
            self._page = Page(
                opened.enter_context(whole_file(self._page_path)),
                detector.levels,
                detector.input_size,
                class_colors(detector.category_ids),
                settings,
            )
            levels = json.dumps([level._asdict() for level in detector.levels])
            self._json.write(
                f'{{"settings": {json.dumps(settings._asdict())},\n "levels": {levels},'
                '\n "images": ['
            )
            self._opened = opened.pop_all()

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is not None:
            self._opened.__exit__(kind, error, trace)
            return
        with self._writing():
            with self._opened:
                self._page.close()
                self._json.write("\n]}\n")
            # Those of an earlier call would pass for this one's.
            for path in (self._folder / "pictures").glob("*.jpg"):
                if _PICTURE.fullmatch(path.name) and path.name not in self._drawn:
                    path.unlink()

    def add(
        self, name: str, image: np.ndarray, found: Found, explained: list[Explained]
    ) -> None:
        """Takes an image, its detections, and what some of them borrowed."""
        done = {one.index: one.borrowed for one in explained if one.borrowed}
        with self._writing():
            drawn = self._draw(name, image, found, done) if self._pictures else {}
            record = image_record(
                name,
                image.shape[:2],
                found,
                explained,
                self._class_names,
                self._detector.category_ids,
                drawn,
            )
            self._json.write(",\n" if self._images else "\n")
            self._json.write(json.dumps(record))
            self._page.add(record, image, found, done, self._class_names)
        self._explained += len(done)
        self._without += len(explained) - len(done)
        self._detections += len(found.boxes)
        self._images += 1

    def summary(self) -> str:
        """What was done and left out, for the console; once the files are whole."""
        parts = [
            f"{self._images} images, {self._detections} detections with a score of "
            f"{self._settings.score} or more; {self._explained} explained"
        ]
        if self._without:
            parts.append(f"{self._without} on levels that do not borrow")
        if self._pictures:
            parts.append(f"{len(self._drawn)} pictures")
        if self._left_out:
            parts.append(f"{self._left_out} more left out by --limit={self._limit}")
        size = self._page_path.stat().st_size
        text = f"{', '.join(parts)}: {self._page_path} ({size / 1e6:.1f} MB)"
        if size >= _LARGE:
            text += (
                "\nnote: a browser takes its time over a page of this size; explain "
                "fewer images a call, or raise --score"
            )
        return text

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Files that cannot be written are the user's to know."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            place = f"{error.filename}: " if error.filename else ""
            raise InputError(f"--output={self._folder}: {place}{reason}") from error

    def _draw(self, name, image, found, done):
        """Draws some; file names in the folder by index of the detection."""
        shown = list(done)[: self._limit or None]
        self._left_out += len(done) - len(shown)
        stem = re.sub(r"[^\w.-]", "_", pathlib.PurePath(name).stem)
        stem = stem.encode()[:_STEM].decode(errors="ignore")
        drawn = {}
        for k in shown:
            picture = picture_lib.draw(
                image,
                found,
                k,
                done[k],
                self._detector.levels,
                self._detector.input_size,
                self._class_names,
                str(self._settings),
            )
            # The number tells images of one name apart.
            file = f"{self._images:04d}_{stem}_{k}.jpg"
            annotate.write_image(self._folder / "pictures" / file, picture)
            self._drawn.add(file)
            drawn[k] = f"pictures/{file}"
        return drawn


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[TextIO]:
    """A text file that has its name only once it is whole; nothing stays of others."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def image_record(
    name: str,
    size: tuple[int, int],
    found: Found,
    explained: list[Explained],
    class_names: Sequence[str],
    category_ids: Sequence[int],
    drawn: dict[int, str],
) -> dict[str, Any]:
    """An image's entry in explanations.json.

    Boxes are COCO's [x, y, width, height] and centres [x, y], in pixels of the upright
    image; levels count from 1, detections from 0.
    """
    height, width = size
    of_index = {one.index: one for one in explained}
    detections = []
    for k, label in enumerate(found.labels.tolist()):
        detection = {
            "index": k,
            "class": class_names[label],
            "category_id": category_ids[label],
            "score": float(found.scores[k]),
            "bbox": [round(v, 3) for v in found.pixels(k, size)],
            "level": int(found.levels[k]) + 1,
        }
        if k in of_index:
            one = of_index[k]
            detection["picture"] = drawn.get(k)
            detection["note"] = one.note
            detection["borrowed"] = (
                _borrowed_record(one.borrowed, size) if one.borrowed else None
            )
        detections.append(detection)
    return {
        "file_name": name,
        "height": height,
        "width": width,
        "detections": detections,
    }


def _borrowed_record(borrowed, size):
    height, width = size
    return {
        "level": borrowed.level + 1,
        "descriptors": len(borrowed.descriptors),
        "shares": {str(m + 1): share for m, share in borrowed.shares.items()},
        "precision": borrowed.precision,
        "positions": borrowed.positions,
        "larger": list(borrowed.lenders),
        "sources": [
            {
                "level": source.level + 1,
                "center": [
                    round(source.center[1] * width, 3),
                    round(source.center[0] * height, 3),
                ],
                "weight": source.weight,
                "detections": list(source.detections),
            }
            for source in borrowed.sources
        ],
    }
