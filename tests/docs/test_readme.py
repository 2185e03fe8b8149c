"""The README is short and has the parts that people and programs look up."""

import re

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
HEADINGS = [
    "Is this for you?",
    "Install",
    "Quickstart",
    "Use it",
    "Your own images",
    "Results",
    "Documentation",
    "Tests",
    "Citation",
    "License",
]


def test_readme_has_at_most_200_lines():
    assert len(README.splitlines()) <= 200


def test_readme_has_its_sections_in_order():
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == HEADINGS


@pytest.mark.parametrize(
    ("heading", "end"),
    [
        ("Quickstart", "--config=configs/quickstart.py --workdir=runs/quickstart"),
        ("Tests", "-m pytest -n 2 --dist=worksteal"),
    ],
)
def test_section_starts_with_one_command_that_includes_the_setup(heading, end):
    section = README.partition(f"\n## {heading}\n")[2]
    block = re.match(r"\s*```\n(.*?)```\n", section, re.DOTALL)[1]
    (command,) = block.splitlines()
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -q -r ")
    assert " && .venv/bin/python -m " in command
    assert command.endswith(f" {end}")


def test_relative_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) > 10
    missing = [link for link in links if not (ROOT / link).exists()]
    assert missing == []
