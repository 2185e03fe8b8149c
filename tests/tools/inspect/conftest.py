"""An inspected folder with hostile names and mistakes, for tests of its files."""

import pytest

from borrow_det.tools.common import cli
from borrow_det.tools.inspect import __main__ as inspect
from tests.tools.inspect.made_folder import (
    HOSTILE_CLASSES,
    HOSTILE_FILES,
    scenes,
    write_split,
)


@pytest.fixture(scope="session")
def output(tmp_path_factory):
    """The output folder of a folder with hostile names and every kind of mistake."""
    base = tmp_path_factory.mktemp("inspect")
    folder = base / "data"
    folder.mkdir()
    made = scenes(4)
    boxes = [
        [(1, 10, 10, 12, 12), (1, 100, 100, 60, 60), (2, 200, 50, 100, 30)],
        [(2, 30, 30, 40, 40), (2, 30, 30, 40, 41), (3, 30, 31, 40, 40)],
        [(4, 5, 5, 10, 200), (5, 60, 60, 3, 2)],
        [(1, 5, 5, 0, 10), (5, 60, 60, 30, 20)],
    ]
    write_split(
        folder,
        "train",
        boxes,
        256,
        HOSTILE_CLASSES,
        list(zip(HOSTILE_FILES, made, strict=True)),
    )
    write_split(
        folder, "val", [[(1, 9, 9, 9, 9)]], 256, HOSTILE_CLASSES, [("c.png", made[2])]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(base / "prepared"))
        arguments = ["inspect", f"--path={folder}", f"--output={base / 'out'}"]
        assert cli.call(inspect.main, arguments) == 0
    return base / "out"
