"""Reads the dependencies and extras from the requirements files.

pyproject.toml holds the rest. setuptools' own `file =` refuses the lines `-r FILE`, by
which each requirements file stays installable alone.
"""

import pathlib
from collections.abc import Iterator

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent


def read_requirements(name: str) -> Iterator[str]:
    """Yields the requirements of a file and of the files that it names with -r.

    Comments are left out; so is requirements.txt, unless it is the file itself: every
    extra comes on top of it.
    """
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            other = line.removeprefix("-r ").strip()
            if other != "requirements.txt":
                yield from read_requirements(other)
        elif line:
            yield line


setuptools.setup(
    install_requires=list(read_requirements("requirements.txt")),
    extras_require={
        path.stem.removeprefix("requirements-"): list(read_requirements(path.name))
        for path in sorted(ROOT.glob("requirements-*.txt"))
    },
)
