"""Golden texts of the configs, so that a change of one is a diff to review.

`base.txt` lists every field; the text of another config lists the fields that differ
from base. After an intended change, rewrite the texts from the project's root with
`python -m tests.configs.test_golden` and commit them with it.
"""

import importlib
import pathlib

import flax
import jax
import pytest

from borrow_det import tasks
from borrow_det.config import validate
from borrow_det.distributed.mesh import make_mesh
from borrow_det.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(__file__).parent / "golden"
NAMES = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if path.stem
    not in ("__init__", "arguments", "trunks", "coco_folder", "coco_folder_narrow")
)
# Arguments that have no default.
REQUIRED = dict.fromkeys(("folder", "folder_narrow", "object_pairs"), "path=DIR")


def get_config(name):
    """Returns the config of a file, made with its required arguments only."""
    module = importlib.import_module(f"borrow_det.configs.{name}")
    return (
        module.get_config(REQUIRED[name]) if name in REQUIRED else module.get_config()
    )


def as_fields(config) -> dict[str, str]:
    """Returns the config's fields by full name, values as Python writes them."""
    flat = flax.traverse_util.flatten_dict(config.to_dict(), sep=".")
    return {name: repr(flat[name]) for name in sorted(flat)}


def as_text(name) -> str:
    """Returns the golden text of a config: a field a line, by name."""
    fields = as_fields(get_config(name))
    if name != "base":
        base = as_fields(get_config("base"))
        fields = {n: value for n, value in fields.items() if value != base[n]}
    return "".join(f"{field} = {value}\n" for field, value in fields.items())


@pytest.mark.parametrize("name", NAMES)
def test_config_equals_its_golden_text(name):
    assert as_text(name) == (GOLDEN / f"{name}.txt").read_text(), __doc__


@pytest.mark.parametrize("name", ["folder", "folder_narrow"])
def test_former_name_of_a_config_makes_the_same_config(name):
    former = importlib.import_module(f"borrow_det.configs.coco_{name}")
    config = get_config(name)
    assert former.get_config("path=DIR").to_dict() == config.to_dict()


def test_every_golden_text_has_a_config():
    assert sorted(path.stem for path in GOLDEN.iterdir()) == NAMES


def test_golden_text_is_the_difference_to_base():
    lines = as_text("quickstart").splitlines()
    assert "num_steps = 480" in lines
    assert "borrow.levels = (0,)" in lines
    assert not any(line.startswith("borrow.similarity") for line in lines)
    assert "borrow.similarity = 'cosine'" in as_text("base").splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_overlay_adds_no_field_and_the_network_builds(name):
    config = get_config(name)
    assert list(as_fields(config)) == list(as_fields(get_config("base")))
    assert config.is_locked
    validate.check(config, tasks.TASKS, make_mesh(config.mesh).size)
    task = tasks.TASKS[config.task](config, num_classes=3)
    jax.eval_shape(task.init, jax.random.key(0))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "base"])
def test_unknown_argument_is_named_in_the_error(name):
    module = importlib.import_module(f"borrow_det.configs.{name}")
    with pytest.raises(InputError, match="widht"):
        module.get_config("widht=0.5")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "base"])
def test_docstring_holds_the_command(name):
    module = importlib.import_module(f"borrow_det.configs.{name}")
    assert "python -m borrow_det.main" in module.__doc__
    assert f"--config=configs/{name}.py" in module.__doc__


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.iterdir():
        old.unlink()
    for written in NAMES:
        (GOLDEN / f"{written}.txt").write_text(as_text(written))
