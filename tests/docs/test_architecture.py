"""The drawing of the packages shows the layers of the import contract."""

import re
import tomllib

from tests.conftest import ROOT


def test_drawing_has_the_layers_of_the_import_contract():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = next(
        contract
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    expected = [
        {name.strip().removeprefix("borrow_det.") for name in layer.split("|")}
        for layer in contract["layers"]
    ]
    drawing = (ROOT / "docs" / "images" / "architecture.svg").read_text()
    boxes = re.findall(r'class="n" x="[\d.]+" y="([\d.]+)">([\w/]+)<', drawing)
    rows: dict[float, set[str]] = {}
    for y, name in boxes:
        rows.setdefault(float(y), set()).add(name.removesuffix("/"))
    assert [rows[y] for y in sorted(rows)] == expected
