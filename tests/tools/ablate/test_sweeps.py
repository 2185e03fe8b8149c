"""Rows of a sweep file are typed overrides of a base config."""

import functools
import pathlib

import jax
import pytest

from borrow_det.config import validate
from borrow_det.configs import (
    arguments,
    base,
    folder,
    folder_narrow,
    object_pairs,
    quickstart,
    scale_pairs_clips,
    scale_pairs_wide,
)
from borrow_det.errors import InputError
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.ablate import sweeps

SWEEPS = sorted(
    (pathlib.Path(__file__).resolve().parents[3] / "configs/sweeps").glob("*.py")
)


@pytest.fixture
def load(tmp_path):
    """Function that returns the rows of a sweep with this body."""

    def load(body):
        path = tmp_path / "sweep.py"
        path.write_text(f"def sweep(add):\n    {body}\n")
        return sweeps.load(path, base.get_config())

    return load


def test_rows_differ_from_the_base_only_in_their_overrides(load):
    text = """add("a", {})
    add("b, 2", {"borrow.center": False, "loss.matching": 3, "borrow.levels": (0,),
                 "anchors.aspect_ratios": ((1.0,),) * 4, "batch_size": 5})"""
    first, second = load(text)
    assert first.config.to_dict() == base.get_config().to_dict()
    expected = base.get_config()
    expected.borrow.center = False
    expected.loss.matching = 3.0
    expected.borrow.levels = (0,)
    expected.anchors.aspect_ratios = ((1.0,),) * 4
    expected.batch_size = 5
    assert second.config.to_dict() == expected.to_dict()
    assert isinstance(second.config.loss.matching, float)
    assert (second.name, second.folder) == ("b, 2", "b_2")


def test_selected_rows_include_the_baseline(load):
    rows = load('[add(name, {}) for name in ("a", "b, c", "d")]')
    assert sweeps.select(rows, ["d"], "a") == [rows[0], rows[2]]
    assert sweeps.select(rows, ["b, c", "a"], "a") == rows[:2]
    assert sweeps.select(rows, [], "a") == rows


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('add("a", {"borrow.centre": True})', r"row 'a'.* no field borrow\.centre;"),
        ('add("a", {"borow.center": True})', r"no field borow\.center;"),
        (
            'add("a", {"borrow": True})',
            r"True \(bool\); it must be of type ConfigDict",
        ),
        ('add("a", {"seed.x": 1})', r"no field seed\.x"),
        (
            'add("a", {"borrow.center": 1})',
            r"center is 1 \(int\); it must be of type bool",
        ),
        ('add("a", {"seed": 1})', r"seed is set by the sweep \(--seeds\), not by a"),
        (
            'add("a", {"dataset.fold": 1})',
            r"dataset\.fold is set by the sweep \(--folds\), not by a row",
        ),
        ('add("a", {"num_steps": True})', r"is True \(bool\); it must be of type int"),
        ('add("a", {"num_steps": 1.5})', r"is 1\.5 \(float\); it must be of type int"),
        ('add("a", {"loss.matching": "1"})', r"it must be of type float"),
        ('add("a", {"borrow.levels": [0]})', r"\(list\); it must be of type tuple"),
        ('add("a", {}); add("b", {}); add("a", {})', r"two rows have the name 'a'"),
        ('add("a 1", {}); add("a_1", {})', r"two rows have the name 'a_1'"),
        ('add("?", {})', r"'\?' cannot be the name of a row"),
        ('add("..", {})', r"'\.\.' cannot be the name of a row"),
        ('add("compiled", {})', r"'compiled' cannot be the name of a row"),
        ('add("a" * 101, {})', r"at most 100 characters"),
        ('add("a\\nb", {})', r"must be printable"),
        (
            'import numpy; add("a", {"anchors.variances": (numpy.float64(0.1), 0.2)})',
            r"anchors\.variances is .*, which is not a literal",
        ),
        ("pass", r"adds no row"),
        ('add("a")', r"TypeError"),
        ("1 / 0", r"sweep\.py: ZeroDivisionError: division by zero"),
    ],
)
def test_a_wrong_row_is_named_in_the_error(load, body, message):
    with pytest.raises(InputError, match=message):
        load(body)


def test_a_file_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.py is not a file"):
        sweeps.load(tmp_path / "absent.py", base.get_config())
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InputError, match=r"does not define a function sweep\(add\)"):
        sweeps.load(tmp_path / "empty.py", base.get_config())


# Names, or parts of names, of rows that each sweep must have.
SWEPT = {
    "better_than_pooling": (
        *(
            "full, pooling",
            "temperature 30",
            "loss 0.03",
            "levels",
            "values",
            "normalized",
        ),
        *("not centered", "after", "most attended", "in reach"),
    ),
    "components": ("ssd", "ssd + context", "pooling", "borrowing", "full", "letter"),
    "fusion": ("from X", "from Y", "zero", "random", "after"),
    "learning_to_match": ("no matching loss", "temperature", "pretrained", "steps"),
    "levels": ("none", "0 from all", "0 and 1 and 2 from", "0 from 1", "0 from 3"),
    "matching_loss": tuple(
        f"{name}, {weight}"
        for name in ("embedded_gaussian", "scaled", "cosine", "dot_product")
        for weight in ("0", "0.3", "1", "3")
    ),
    "no_gain": ("ssd", "loss 0.3", "any size", "after", "normalised", "values"),
    "object_pairs": ("ssd", "context", "pooling", "no matching loss", "the paper's"),
    "pasted_copies": tuple(
        f"{name}{pasted}"
        for name in ("ssd", "ssd + context", "pooling", "no matching loss", "full")
        for pasted in ("", ", pasted copies")
    ),
    "references_clips": ("ssd", "within", "pooling", "group", "no matching loss"),
    "references_photographs": ("no references", "group", "overview"),
    "references_wide": ("ssd", "within", "entire", "pooling", "overview", "no match"),
    "similarity": (
        *("embedded_gaussian", "scaled", "cosine", "cosine, centred", "dot_product"),
        "cosine, centred, matching loss",
    ),
    "source": ("deeper", "deconvolved", "same", "no matching loss"),
}

# Configs that sweeps are for, if not the quickstart.
BASES = {
    "better_than_pooling": functools.partial(object_pairs.get_config, "path=anywhere"),
    "pasted_copies": functools.partial(folder.get_config, "path=anywhere"),
    "object_pairs": functools.partial(object_pairs.get_config, "path=anywhere"),
    "no_gain": functools.partial(folder_narrow.get_config, "path=anywhere"),
    "references_clips": scale_pairs_clips.get_config,
    "references_photographs": functools.partial(
        folder_narrow.get_config, "path=anywhere"
    ),
    "references_wide": scale_pairs_wide.get_config,
}


def test_every_sweep_is_checked():
    assert sorted(SWEPT) == [path.stem for path in SWEEPS]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_rows_of_a_packaged_sweep_are_valid_and_differ(path):
    config = BASES.get(path.stem, quickstart.get_config)()
    rows = sweeps.load(path, config)
    assert len({row.config.to_json() for row in rows}) == len(rows)
    plain = config.copy_and_resolve_references()
    arguments.set_plain_ssd(plain)
    for row in rows:
        if row.name == "ssd":
            assert row.config.to_dict() == plain.to_dict()
    for part in SWEPT[path.stem]:
        assert any(part in row.name for row in rows), part
    for row in rows:
        task = DetectionTask(row.config, num_classes=1)
        jax.eval_shape(task.init, jax.random.key(0))


@pytest.mark.parametrize(
    "path",
    # `source` has sources that are not deeper; others have references of their own.
    [p for p in SWEEPS if p.stem != "source" and "references" not in p.stem],
    ids=lambda path: path.stem,
)
def test_packaged_sweeps_take_a_base_with_references(path):
    config = BASES.get(path.stem, quickstart.get_config)()
    config.references.kind = "group"
    rows = sweeps.load(path, config)
    kinds = [row.config.references.kind for row in rows]
    assert kinds == ["group" if row.config.borrow.enabled else "none" for row in rows]
    for row in rows:
        validate.check_fields(row.config)
