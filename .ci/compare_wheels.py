"""Checks that two wheels hold the same files, all of them in one package.

python compare_wheels.py WHEEL WHEEL
"""

import sys
import zipfile


def contents(path: str) -> dict[str, bytes]:
    """Returns the files of a wheel: name -> content."""
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def main() -> None:
    """Exits with a message where the wheels differ or a file is out of place."""
    first, second = map(contents, sys.argv[1:])
    differing = sorted(
        name
        for name in first.keys() | second.keys()
        if first.get(name) != second.get(name)
    )
    if differing:
        sys.exit(f"{sys.argv[1]} and {sys.argv[2]} differ in {', '.join(differing)}")
    folders = {name.partition("/")[0] for name in first}
    packages = {name for name in folders if not name.endswith(".dist-info")}
    if packages != {"borrow_det"}:
        sys.exit(f"top-level names of the wheel: {', '.join(sorted(packages))}")
    for name in ("borrow_det/configs/quickstart.py", "borrow_det/py.typed"):
        if name not in first:
            sys.exit(f"{sys.argv[1]} has no {name}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in first):
        sys.exit(f"{sys.argv[1]} has no licence")
    print(f"{len(first)} files, equal in both wheels")


if __name__ == "__main__":
    main()
