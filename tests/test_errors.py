"""Messages of InputError are one line."""

import pickle

from borrow_det.errors import InputError


def test_control_characters_of_quoted_names_are_escaped():
    error = InputError("a\nb\x1b[31m\x00\u2028c.png: हिन्दी, 汽车, \udcff and é remain")
    assert str(error) == (
        r"a\nb\x1b[31m\x00\u2028c.png: हिन्दी, 汽车, " + "\udcff and é remain"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
