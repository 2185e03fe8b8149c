"""The files of a work directory, and its refusals."""

import json

import ml_collections
import pytest

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.workdir import metadata
from tests.workdir import first_fields

CLASSES = metadata.Classes(("cat", "dog"), (1, 7))
BOXES = {"train": {"clipped": 2, "dropped": 0}}


@pytest.fixture
def folder(tmp_path):
    """A work directory in which a run has saved a checkpoint."""
    folder = metadata.prepare(tmp_path / "W", base.get_config(), CLASSES, BOXES)
    (folder / "checkpoints" / "100").mkdir(parents=True)
    return folder


def test_config_and_classes_are_read_as_written(folder):
    config = metadata.load_config(folder)
    assert config == base.get_config()
    assert config.anchors.aspect_ratios[3] == (1.0, 3.0**0.5, 3.0**-0.5)
    assert metadata.load_classes(folder) == CLASSES
    assert json.loads((folder / "dataset.json").read_text())["boxes"] == BOXES
    assert not (folder / "folds.json").exists()
    with pytest.raises(AttributeError):
        config.model.widht = 1.0


def test_the_folds_and_their_images_are_on_record(tmp_path):
    folds = {"folds": 2, "fold": 1, "group": "", "images": [{"train": ["a.jpg"]}, {}]}
    config = base.get_config()
    metadata.prepare(tmp_path / "other", config, CLASSES, BOXES, folds, write=False)
    assert not (tmp_path / "other").exists()
    folder = metadata.prepare(tmp_path / "W", config, CLASSES, BOXES, folds)
    assert json.loads((folder / "folds.json").read_text()) == folds


def test_environment_describes_how_to_reproduce_a_run(folder):
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["seed"] == 0
    assert len(environment["devices"]) == 2
    assert set(environment["packages"]) == set(metadata.PACKAGES)
    assert environment["git"] is None or len(environment["git"]["commit"]) == 40


def test_every_start_is_on_record(folder, monkeypatch):
    (first,) = metadata.starts(folder)
    second = first | {"command": ("borrow_det", "again")}
    monkeypatch.setattr(metadata, "environment", lambda seed: second)
    for _ in range(2):
        metadata.prepare(folder, base.get_config(), CLASSES, BOXES)
    assert metadata.starts(folder) == [first, second, second]
    assert metadata.starts(folder / "nowhere") == []


def test_fields_outside_the_architecture_may_change(folder):
    config = base.get_config()
    config.num_steps = 7
    config.optimizer.learning_rate = 1.0
    config.loss.matching = 0.0
    metadata.prepare(folder, config, CLASSES, BOXES)
    assert metadata.load_config(folder).num_steps == 7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.width", 0.5),
        ("borrow.levels", (0,)),
        ("anchors.sizes", (1.0, 2.0, 3.0, 4.0)),
        ("input_size", (512, 256)),
        ("seed", 1),
        ("ema_decay", 0.5),
        ("optimizer.name", "adamw"),
        ("head.depth", 4),
        ("loss.classification", "focal"),
        ("dataset.folds", 5),
        ("dataset.fold", 2),
    ],
)
def test_another_architecture_is_refused_by_its_field(folder, field, value):
    config = base.get_config()
    config.update_from_flattened_dict({field: value})
    before = contents(folder)
    with pytest.raises(InputError, match=field) as error:
        metadata.prepare(folder, config, CLASSES, BOXES)
    assert str(value) in str(error.value)
    assert contents(folder) == before


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def test_fields_younger_than_a_run_have_its_values(folder):
    path = folder / "config.json"
    fields = first_fields.only(json.loads(path.read_text()))
    path.write_text(json.dumps(fields))
    config = base.get_config()
    # These defaults have changed since.
    config.borrow.attention = config.first_stage = "plain"
    config.checkpoint_best, config.borrow.heads = "", "both"
    assert metadata.load_config(folder).to_dict() == metadata.as_stored(
        config.to_dict()
    )
    assert metadata.differences(metadata.load_config(folder), config) == {}
    metadata.prepare(folder, config, CLASSES, BOXES)
    path.write_text(json.dumps(fields))
    config.evaluation.area_pixels = "input"
    with pytest.raises(InputError, match=r"evaluation\.area_pixels=original, this"):
        metadata.prepare(folder, config, CLASSES, BOXES)


def test_run_resumes_with_another_form_of_attention(folder):
    config = base.get_config()
    config.borrow.attention, config.borrow.query_block = "plain", 64
    metadata.prepare(folder, config, CLASSES, BOXES)
    assert metadata.load_config(folder).borrow.query_block == 64
    path = folder / "config.json"
    older = json.loads(path.read_text())
    del older["borrow"]["attention"], older["borrow"]["query_block"]
    path.write_text(json.dumps(older))
    assert metadata.differences(metadata.load_config(folder), config) == {}


def test_without_a_checkpoint_every_field_may_change(folder):
    (folder / "checkpoints" / "100").rmdir()
    config = base.get_config()
    config.model.width = 0.5
    other = metadata.Classes(("cow",), (3,))
    metadata.prepare(folder, config, other, BOXES)
    assert metadata.load_config(folder).model.width == 0.5
    assert metadata.load_classes(folder) == other


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for place in (file, file / "below"):
        with pytest.raises(InputError, match=f"--workdir={place} cannot be written"):
            metadata.prepare(place, base.get_config(), CLASSES, BOXES)


def test_other_classes_are_refused(folder):
    for other in ((("cat", "cow"), (1, 7)), (("cat", "dog"), (1, 8))):
        with pytest.raises(InputError, match="classes"):
            metadata.prepare(folder, base.get_config(), metadata.Classes(*other), BOXES)


def test_folder_without_config_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.json does not exist"):
        metadata.load_config(tmp_path)
    for content, message in (
        ("{", r"config\.json: not JSON"),
        ("[]", r"config\.json holds no JSON object: it is not a run's config\.json"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=message):
            metadata.load_config(tmp_path)


def test_missing_classes_are_named(folder):
    (folder / "dataset.json").write_text('{"class_names": ["cat"]}')
    with pytest.raises(InputError, match=r"dataset\.json lacks category_ids"):
        metadata.load_classes(folder)


def test_file_is_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / "file.json"
    metadata.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        metadata.write_json(path, {"a": {1, 2}})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize(
    ("split", "folder"),
    [
        ("val", "val"),
        ("train[:16]", "train_16"),
        ("train[80%:]+val", "train_80_+val"),
        ("a/b", "a_b"),
    ],
)
def test_folders_have_plain_names(split, folder):
    assert metadata.folder_name(split) == folder


def test_differences_ignore_fields_younger_than_a_run():
    new = base.get_config()
    fields = metadata.as_stored(new.to_dict())
    del fields["mesh"]["fsdp"], fields["evaluation"]["area_pixels"]
    old = ml_collections.ConfigDict(fields)
    assert metadata.differences(old, new) == {}
    new.mesh.fsdp = 2
    assert metadata.differences(old, new) == {"mesh.fsdp": (1, 2)}
