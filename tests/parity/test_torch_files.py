"""PyTorch's files that would run something, hold something else, or are broken."""

import pytest

from borrow_det.tools import import_weights
from borrow_det.tools.common import cli

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="requirements-parity.txt has it")


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def refused(capsys, path):
    """The one line of a refusal, which leaves nothing."""
    output = path.parent / "W"
    flags = [f"--input={path}", f"--output={output}"]
    assert cli.call(import_weights.main, ["import_weights", *flags]) == 2
    assert not output.exists()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {path}: ")
    assert err.count("\n") == 1
    assert "weights_only" not in err  # No advice to load it anyway.
    return err


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_that_calls_something_is_refused_and_not_run(
    torch, tmp_path, capsys, old
):
    path, sprung = tmp_path / "a.pth", tmp_path / "sprung"
    state = {"features.0.weight": Trap(sprung)}
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    message = refused(capsys, path)
    assert "it has other objects than tensors and would call " in message
    assert "open" in message
    assert not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists()  # The trap works.


def test_other_things_than_state_dicts_are_refused(torch, tmp_path, capsys):
    path = tmp_path / "a.pth"
    features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    sparse = torch.zeros(2, 2).to_sparse()
    for content, message in (
        (features, "would call torch.nn.modules"),
        ({"state_dict": features.state_dict()}, "entry 'state_dict' is a OrderedDict"),
        ({"epoch": 3}, "entry 'epoch' is a int, not a tensor: save only the state"),
        ({0: torch.zeros(1)}, "entry 0: the name of a tensor must be a text"),
        (
            {"a": sparse},
            "entry 'a' is a tensor with layout torch.sparse_coo, which is not dense",
        ),
        ([torch.zeros(1)], "has a list instead of a state dict"),
        ({"a": torch.zeros(2)}, "do not match a known layout"),
        ({}, "has no tensors"),
    ):
        torch.save(content, path)
        assert message in refused(capsys, path)


def test_damaged_and_wrong_files_are_refused(torch, tmp_path, capsys):
    path = tmp_path / "a.pth"
    state = {"a": torch.zeros(5000)}
    for old in (False, True):
        torch.save(state, path, _use_new_zipfile_serialization=not old)
        content = path.read_bytes()
        for wrong, reason in (
            (content[: len(content) // 2], ": unexpected EOF" if old else ": [Errno"),
            (content[:-100], ": unexpected EOF" if old else ": [Errno"),
            (b"words\n", ": Unsupported operand 119\n"),
            (b"", "or damaged\n"),
        ):
            path.write_bytes(wrong)
            message = refused(capsys, path)
            assert "not a PyTorch file of tensors, or damaged" in message
            assert reason in message
