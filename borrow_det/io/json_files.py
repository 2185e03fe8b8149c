"""Reads JSON files that come from users, or that users may have edited."""

import json
import os
from typing import Any

from borrow_det.errors import InputError
from borrow_det.io import paths


def read(path: str | os.PathLike) -> Any:
    """Returns the content of a JSON file, in UTF-8 or another Unicode encoding.

    Raises:
      InputError: the file is missing, not readable or not JSON.
    """
    try:
        return json.loads(paths.as_path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {paths.reason(error)}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: its JSON is nested too deeply") from error
