"""Files that explain writes: numbers, pictures, and a page to browse them."""

import contextlib
import json
import pathlib
import re
import types
from collections.abc import Iterator, Sequence
from typing import TextIO

import numpy as np

from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.tools.explain.explanation import Borrowed, LevelDetections
from borrow_det.tools.explain.page import Page, class_colors
from borrow_det.tools.explain.picture import draw_explanation
from borrow_det.tools.explain.records import Explained, Window, image_record
from borrow_det.tools.explain.references import Reference
from borrow_det.tools.explain.text import Settings, readable
from borrow_det.visualization import annotate, fonts

_STEM = 100  # Bytes of a file's name that the names of its pictures keep.
_PICTURE = re.compile(r"\d{4,}_.*_\d+\.jpg")  # Names that `_draw` gives to pictures.
_LARGE = 100e6  # Bytes of a page that opens slowly.


class ExplanationWriter:
    """Writes the output folder of one call of the tool, image by image.

    A context manager: its files are complete at the end, or removed after an error.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        detector: Detector,
        settings: Settings,
        pictures: bool,
        limit: int,
        results: str = "",
    ):
        """Creates the folder.

        Args:
          folder: output folder.
          detector: trained run, whose classes and levels are named.
          settings: settings of the explanations.
          pictures: false to draw nothing.
          limit: pictures per image; 0 for all.
          results: link of the page to the results of the run, as HTML; "" for none.

        Raises:
          InputError: the folder cannot be made or written to, here or later.
        """
        self._folder, self._detector, self._settings = folder, detector, settings
        names, ids = detector.class_names, detector.category_ids
        self._class_names = [readable(name) for name in names]
        self._drawn_names = [fonts.class_text(i, names, ids) for i in range(len(names))]
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
            # Written image by image: those of a large folder would fill the memory.
            self._json = opened.enter_context(whole_file(self._json_path))
            self._page = Page(
                opened.enter_context(whole_file(self._page_path)),
                detector.levels,
                detector.input_size,
                class_colors(detector.category_ids),
                settings,
                results,
            )
            levels = json.dumps([level._asdict() for level in detector.levels])
            self._json.write(
                f'{{"settings": {json.dumps(settings.record())},\n "levels": {levels},'
                '\n "images": ['
            )
            self._opened = opened.pop_all()

    def __enter__(self) -> "ExplanationWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is not None:
            self._opened.__exit__(kind, error, trace)
            return
        with self._writing():
            with self._opened:
                self._page.close()
                self._json.write("\n]}\n")
            # Pictures of an earlier call would be mistaken for this call's.
            for path in (self._folder / "pictures").glob("*.jpg"):
                if _PICTURE.fullmatch(path.name) and path.name not in self._drawn:
                    path.unlink()

    def add(
        self,
        name: str,
        image: np.ndarray,
        found: LevelDetections,
        explained: Sequence[Explained],
        references: Sequence[Reference] = (),
        window: Window | None = None,
    ) -> None:
        """Writes an image, its detections, and the explanations of some of them.

        Args:
          name: name of the image or the view.
          image: uint8 RGB [H, W, 3].
          found: detections of the image.
          explained: explanations of some of them.
          references: references of the image.
          window: the view in pixels of its image; None if the image is one view.
        """
        done = {one.detection: one.borrowed for one in explained if one.borrowed}
        with self._writing():
            drawn = (
                self._draw(name, image, found, done, references)
                if self._pictures
                else {}
            )
            record = image_record(
                name,
                (image.shape[0], image.shape[1]),
                found,
                explained,
                self._class_names,
                self._detector.category_ids,
                drawn,
                references,
                window,
            )
            self._json.write(",\n" if self._images else "\n")
            self._json.write(json.dumps(record))
            self._page.add(record, image, found, done, self._class_names, references)
        self._explained += len(done)
        self._without += len(explained) - len(done)
        self._detections += len(found.boxes)
        self._images += 1

    def summary(self) -> str:
        """Returns the console's summary; call it after the files are complete."""
        parts = [
            f"{self._images} images, {self._detections} detections with a score of at "
            f"least {self._settings.score}; {self._explained} explained"
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
                "\nnote: a page of this size opens slowly; explain fewer images per "
                "call, or raise --score"
            )
        return text

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns errors of writing into InputError."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            place = f"{error.filename}: " if error.filename else ""
            raise InputError(f"--output={self._folder}: {place}{reason}") from error

    def _draw(
        self,
        name: str,
        image: np.ndarray,
        found: LevelDetections,
        done: dict[int, Borrowed],
        references: Sequence[Reference],
    ) -> dict[int, str]:
        """Draws up to the limit; returns file names by index of the detection."""
        shown = list(done)[: self._limit or None]
        self._left_out += len(done) - len(shown)
        stem = re.sub(r"[^\w.-]", "_", pathlib.PurePath(name).stem)
        stem = stem.encode()[:_STEM].decode(errors="ignore")
        drawn = {}
        for k in shown:
            picture = draw_explanation(
                image,
                found,
                k,
                done[k],
                self._detector.levels,
                self._detector.input_size,
                self._drawn_names,
                str(self._settings),
                references,
            )
            # The number distinguishes images of one name.
            file = f"{self._images:04d}_{stem}_{k}.jpg"
            annotate.write_image(self._folder / "pictures" / file, picture)
            self._drawn.add(file)
            drawn[k] = f"pictures/{file}"
        return drawn


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[TextIO]:
    """Opens a text file that has its name once it is complete, or never exists."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
