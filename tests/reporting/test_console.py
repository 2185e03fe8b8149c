"""What a run's lines say."""

import pytest

from borrow_det.reporting.console import Console


@pytest.mark.parametrize(
    ("waited", "said"),
    [(0.049, ""), (0.05, "  data_wait 5%"), (0.9, "  data_wait 90%")],
)
def test_a_line_says_so_where_steps_wait_for_batches(capsys, waited, said):
    console = Console(num_steps=20)
    means = {"loss": 1.5, "images_per_second": 12.34, "data_wait": waited}
    console.metrics(10, means)
    assert capsys.readouterr().out == (
        f"step 10/20  loss 1.5000  12.3 images/s{said}  \n"
    )
