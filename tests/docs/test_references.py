"""The files, names, commands and config fields in the documents exist."""

import ast
import re

import flax.traverse_util
import pytest

from borrow_det.__main__ import COMMANDS
from borrow_det.config import packaged
from borrow_det.configs import base
from borrow_det.configs.sweeps import components
from tests.conftest import ROOT

DOCUMENTS = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
        ROOT / "benchmarks" / "README.md",
    ]
)
TEXT = {str(path.relative_to(ROOT)): path.read_text() for path in DOCUMENTS}
FOLDERS = ("borrow_det", "configs", "launch", "benchmarks", "results", "tests", "docs")
# Folders of the package, which tables name without `borrow_det/`.
ROOMS = "|".join(p.name for p in (ROOT / "borrow_det").iterdir() if p.is_dir())
FIELDS = {
    ".".join(path)
    for path in flax.traverse_util.flatten_dict(base.get_config().to_dict())
}
FORMER = {"evaluation.source_scale"}  # docs/evaluation.md lists it as such.
FILES = (".json", ".md", ".py", ".stablehlo", ".png", ".safetensors")
GROUPS = {field.split(".")[0] for field in FIELDS if "." in field}


def code(text):
    """The code spans and the lines of code blocks of a document."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    )
    return [*spans, *(line for block in blocks for line in block.splitlines())]


def definitions(path):
    """The functions, classes and methods of a module."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
            names |= {
                f"{node.name}.{inner.name}"
                for inner in ast.walk(node)
                if isinstance(inner, ast.FunctionDef)
            }
    return names


@pytest.mark.parametrize("document", TEXT)
def test_files_exist(document):
    missing = []
    for span in code(TEXT[document]):
        for path in re.findall(
            rf"(?<![\w/.\-])(?:{'|'.join(FOLDERS)})/[\w./\-]+", span
        ):
            if not (ROOT / path).exists() and "NAME" not in path:
                missing.append(path)
        for path in re.findall(rf"^(?:{ROOMS})/[\w./]+\.py", span):
            if not any((ROOT / top / path).exists() for top in (".", "borrow_det")):
                missing.append(path)
    assert missing == []


@pytest.mark.parametrize("document", TEXT)
def test_names_are_defined_in_the_files_that_are_named_with_them(document):
    missing = []
    for span in code(TEXT[document]):
        if match := re.fullmatch(rf"((?:{ROOMS})/[\w./]+\.py): ([\w.]+)", span):
            path, name = match.groups()
            missing += {name} - definitions(ROOT / "borrow_det" / path)
    assert missing == []


@pytest.mark.parametrize("document", TEXT)
def test_commands_and_configs_exist(document):
    lines = "\n".join(code(TEXT[document]))
    commands = set(re.findall(r"\bborrow-det ([a-z][\w-]*)", lines))
    assert commands <= {*COMMANDS}
    for kind in ("config", "sweep", "compare"):
        values = re.findall(rf"--{kind}=([a-z][\w./]*)", lines)
        known = packaged.names("sweep" if kind == "sweep" else "config")
        files = {value for value in values if "/" in value and "NAME" not in value}
        assert {value for value in values if "/" not in value} <= {*known}
        assert all((ROOT / file).is_file() for file in files)


@pytest.mark.parametrize("document", TEXT)
def test_config_fields_exist(document):
    named = set()
    for span in code(TEXT[document]):
        named |= {*re.findall(r"--config\.([a-z_.]+)=", span)}
        named |= {*re.findall(rf"^((?:{'|'.join(GROUPS)})\.[a-z_]+)(?:=\S*)?$", span)}
    named = {name for name in named if not name.endswith(FILES)}
    assert named - FIELDS - {"field"} - FORMER == set()


def test_paper_to_code_names_are_in_the_modules_of_the_blocks():
    models = ROOT / "borrow_det" / "models"
    modules = "".join(
        (models / name).read_text() for name in ("borrowing.py", "matching.py")
    )
    rows = re.findall(
        r"^\|.*\| ([^|]+) \|$", TEXT["docs/method/paper-to-code.md"], re.M
    )
    spans = [span for row in rows for span in re.findall(r"`([\w.]+)`", row)]
    names = {span for span in spans if "/" not in span and span not in FIELDS}
    names = {name for name in names if not name.endswith(".py")}
    assert {"BorrowingNeck", "FeatureMatchingBlock", "Matching.scores"} <= names
    unknown = [n for n in names if not re.search(rf"\b{n.split('.')[-1]}\b", modules)]
    assert unknown == []


def test_open_choices_show_the_defaults_of_the_base_config():
    defaults = flax.traverse_util.flatten_dict(base.get_config().to_dict(), sep=".")
    # Rows of one field whose default is a single number or name.
    row = r"^\| [^|]+ \| `([\w.]+)` \| `?([\w.]+)`?(?= \||[,:] )"
    shown = dict(re.findall(row, TEXT["docs/method/open-choices.md"], re.MULTILINE))
    shown = {n: v for n, v in shown.items() if not isinstance(defaults[n], tuple)}
    assert len(shown) >= 12
    for name, value in shown.items():
        assert value == str(defaults[name]).removesuffix(".0"), name


def test_the_fields_of_the_paper_to_the_letter_are_those_of_the_sweep():
    text = TEXT["docs/method/open-choices.md"]
    (sentence,) = re.findall(r"The paper to the letter is (.*?\.) Plain", text)
    given = dict(re.findall(r"`([\w.]+)=(.*?)`", sentence))
    expected = components.PAPER | components.LETTER
    assert {k: v.strip('"') for k, v in given.items()} == {
        k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in expected.items()
    }
