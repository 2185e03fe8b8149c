"""The text of --help."""

import pytest
from absl import flags

from borrow_det.config import command_line, packaged
from borrow_det.errors import InputError


@pytest.fixture
def values():
    """A set of flags: one of each kind."""
    values = flags.FlagValues()
    flags.DEFINE_integer("batch", 8, "Images per call.", 1, flag_values=values)
    flags.DEFINE_boolean("draw", True, "Draw pictures.", flag_values=values)
    flags.DEFINE_string("split", None, "Split to read.", flag_values=values)
    flags.DEFINE_multi_string("row", [], "Row to run.", flag_values=values)
    flags.DEFINE_string(
        "workdir", None, "Work directory.", required=True, flag_values=values
    )
    return values


def test_help_lists_required_flags_first_and_then_by_name(values):
    text = command_line.help_text("\nDoes it.\n", [values[name] for name in values])
    assert text == (
        "Does it.\n"
        "\n"
        "Flags:\n"
        "  --workdir\n"
        "      Work directory. (required)\n"
        "  --batch\n"
        "      Images per call. (a positive integer; default: 8)\n"
        "  --[no]draw\n"
        "      Draw pictures. (default: true)\n"
        "  --row\n"
        "      Row to run. (may be repeated)\n"
        "  --split\n"
        "      Split to read."
    )


def test_long_help_texts_are_wrapped(values):
    flags.DEFINE_string("long", None, "word " * 40, flag_values=values)
    text = command_line.help_text("Does it.", [values["long"]])
    *_, name, first, second, third = text.splitlines()
    assert name == "  --long"
    assert [len(line.split()) for line in (first, second, third)] == [15, 15, 10]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["p", "--batch=0", "--workdir=W"], "--batch=0"),
        (["p", "--wrokdir=W"], "wrokdir"),
        (["p"], "workdir"),
    ],
)
def test_mistakes_are_named(values, argv, message):
    with pytest.raises(InputError, match=message):
        command_line.parse(values, argv)


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("optimizer.learning_rat", "learning_rat; did you mean learning_rate?"),
        ("optimizer.qqq", "qqq; configs/base.py lists them all"),
        (
            "evaluation.source_scale",
            "source_scale; evaluation.source_scale is now evaluation.lender_scale",
        ),
    ],
)
def test_an_unknown_field_is_named_with_a_hint(values, field, hint):
    argv = ["p", "--workdir=W", "--config=base", f"--config.{field}=2"]
    packaged.define_config("config", packaged.HELP, values, argv)
    with pytest.raises(InputError) as caught:
        command_line.parse(values, argv)
    assert str(caught.value) == f"the config has no field {hint}"
