"""Every config against a golden text, so that each change of one is a reviewable diff.

After a change that is meant, rewrite the texts from the project's root by
`python -m tests.configs.test_golden`, and commit them with it.
"""

import importlib
import pathlib

import jax
import pytest

from borrow_det import train
from borrow_det.config import validate
from borrow_det.distributed.mesh import make_mesh
from borrow_det.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(__file__).parent / "golden"
NAMES = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if path.stem not in ("__init__", "arguments")
)
# Arguments that have no default.
REQUIRED = {"coco_folder": "path=DIR", "coco_folder_narrow": "path=DIR"}


def get_config(name):
    """The config of a file without any argument that it can do without."""
    module = importlib.import_module(f"borrow_det.configs.{name}")
    return (
        module.get_config(REQUIRED[name]) if name in REQUIRED else module.get_config()
    )


def as_text(config) -> str:
    """One field a line, by name."""

    def lines(fields, prefix):
        for key, value in fields.items():
            if isinstance(value, dict):
                yield from lines(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key} = {value!r}\n"

    return "".join(lines(config.to_dict(), ""))


@pytest.mark.parametrize("name", NAMES)
def test_config_is_its_golden_text(name):
    golden = (GOLDEN / f"{name}.txt").read_text()
    assert as_text(get_config(name)) == golden, __doc__


def test_there_is_no_golden_text_without_a_config():
    assert sorted(path.stem for path in GOLDEN.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_overlays_add_no_field_and_the_run_starts(name):
    config = get_config(name)
    base = get_config("base")
    assert list(as_fields(config)) == list(as_fields(base))
    assert config.is_locked
    validate.check(config, train.TASKS, make_mesh(config.mesh).size)
    task = train.TASKS[config.task](config, num_classes=3)
    jax.eval_shape(task.init, jax.random.key(0))


def as_fields(config):
    """The names of a config's fields."""
    return [line.partition(" = ")[0] for line in as_text(config).splitlines()]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "base"])
def test_unknown_arguments_are_named(name):
    module = importlib.import_module(f"borrow_det.configs.{name}")
    with pytest.raises(InputError, match="widht"):
        module.get_config("widht=0.5")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "base"])
def test_the_docstring_holds_the_command(name):
    module = importlib.import_module(f"borrow_det.configs.{name}")
    assert "python -m borrow_det.main" in module.__doc__
    assert f"--config=configs/{name}.py" in module.__doc__


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.iterdir():
        old.unlink()
    for written in NAMES:
        (GOLDEN / f"{written}.txt").write_text(as_text(get_config(written)))
