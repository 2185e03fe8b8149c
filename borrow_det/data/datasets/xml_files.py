"""XML files of annotation tools, read without document types and their entities."""

import pathlib
import xml.etree.ElementTree as ET

from borrow_det.errors import InputError
from borrow_det.io import paths

_STEP = 2**16  # Bytes that are parsed at a time.


class _DocumentTypeError(Exception):
    """The file has a document type."""


class _Builder(ET.TreeBuilder):
    """Builds a tree; refuses a document type, which can define entities.

    Entities can expand to gigabytes, and external ones read other files. No annotation
    tool writes them.
    """

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _DocumentTypeError


class _RootFoundError(Exception):
    """Ends parsing at the first element; the argument is its name."""


class _RootFinder:
    """Ends parsing at the first element or the document type that names it."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _RootFoundError(name)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        raise _RootFoundError(tag)

    def close(self) -> None:
        pass


def read(path: pathlib.Path) -> ET.Element:
    """Returns the root of an XML file.

    Raises:
      InputError: the file cannot be read, is not XML, or has a document type.
    """
    parser = ET.XMLParser(target=_Builder())
    try:
        with path.open("rb") as file:
            while step := file.read(_STEP):
                parser.feed(step)
        root: ET.Element = parser.close()
        return root
    except OSError as error:
        raise InputError(f"{path}: {paths.reason(error)}") from error
    except _DocumentTypeError as error:
        raise InputError(
            f"{path} has a document type (<!DOCTYPE ...>), which could define "
            "entities: remove it"
        ) from error
    except (ET.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path} is not XML: {error}") from error


def root_tag(path: pathlib.Path) -> str:
    """Returns the name of the first element of a file; "" if it is not XML."""
    parser = ET.XMLParser(target=_RootFinder())
    try:
        with path.open("rb") as file:
            parser.feed(file.read(_STEP))
    except _RootFoundError as found:
        return str(found)
    except (OSError, ET.ParseError, ValueError, LookupError):
        return ""
    return ""


def text(element: ET.Element, path: str) -> str:
    """Returns the text of an element below another; "" if there is none."""
    return (element.findtext(path) or "").strip()


def number(value: str | None) -> float | None:
    """Returns the number of a text, possibly infinite or NaN; None if it is none."""
    try:
        return float(value or "")
    except ValueError:
        return None
