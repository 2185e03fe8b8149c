"""Names of packaged configs and sweeps, and paths, in flags."""

import json
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from borrow_det.config import command_line, packaged
from borrow_det.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


def resolve(*arguments):
    """The config that a command line gives."""
    values = flags.FlagValues()
    argv = ["program", *arguments]
    packaged.define_config("config", packaged.HELP, values, argv)
    command_line.parse(values, argv)
    return command_line.resolved(values["config"])


def test_a_name_gives_the_same_config_as_its_path(monkeypatch, tmp_path):
    by_path = resolve(f"--config={CONFIGS}/quickstart.py:borrow=False")
    monkeypatch.chdir(tmp_path)
    by_name = resolve("--config=quickstart:borrow=False")
    assert by_name.to_dict() == by_path.to_dict()
    assert not by_name.borrow.enabled
    assert by_name.num_steps == 480


def test_arguments_and_fields_follow_a_name():
    config = resolve("--config=folder:path=a:b,size=320", "--config.seed=3")
    assert config.dataset.path == "a:b"
    assert config.input_size == (320, 320)
    assert config.seed == 3


def test_a_file_of_the_current_folder_comes_before_a_packaged_name(
    monkeypatch, tmp_path
):
    (tmp_path / "quickstart").write_text("")
    monkeypatch.chdir(tmp_path)
    assert packaged.config_file("quickstart:x") == "quickstart:x"


def test_a_folder_does_not_hide_a_packaged_name(monkeypatch, tmp_path):
    (tmp_path / "quickstart").mkdir()
    monkeypatch.chdir(tmp_path)
    found = packaged.config_file("quickstart")
    assert pathlib.Path(found).resolve() == CONFIGS / "quickstart.py"


def test_every_file_of_configs_that_makes_one_is_known():
    modules = {path.stem for path in CONFIGS.glob("*.py")}
    assert set(packaged.names("config")) == modules - {
        "__init__",
        "arguments",
        "trunks",
    }
    sweeps = {path.stem for path in (CONFIGS / "sweeps").glob("*.py")}
    assert set(packaged.names("sweep")) == sweeps - {"__init__"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("quickstrat", "did you mean quickstart? the packaged ones are base, "),
        ("configs/voc.py", "the packaged one is --config=voc"),
        ("zzz.py", "--config=zzz.py is not a file; the packaged ones are base, "),
        ("", "--config= is not a file; the packaged ones are base, coco, "),
    ],
)
def test_an_unknown_name_lists_the_known_ones(monkeypatch, tmp_path, value, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        resolve(f"--config={value}")
    assert message in str(caught.value)


def test_sweeps_have_names_too(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = packaged.sweep_file("components")
    assert found.resolve() == CONFIGS / "sweeps" / "components.py"
    with pytest.raises(InputError, match="did you mean levels"):
        packaged.sweep_file("level")


def test_a_users_file_may_overlay_packaged_configs(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from borrow_det.configs import quickstart\n"
        "import neighbour\n"
        "def get_config(arg=None):\n"
        "    config = quickstart.get_config(arg)\n"
        "    config.num_steps = neighbour.STEPS\n"
        "    return config\n"
    )
    (tmp_path / "neighbour.py").write_text("STEPS = 7\n")
    program = (
        "import sys; sys.path.insert(0, '.'); sys.path.append(sys.argv[1])\n"
        "import json; from tests.config.test_packaged import resolve\n"
        "print(json.dumps(resolve('--config=mine.py').num_steps))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == 7
