"""The console command `borrow-det`, which is also `python -m borrow_det`.

Each command is a module of the package; `borrow-det NAME ...` and
`python -m borrow_det.tools.NAME ...` (for train, `python -m borrow_det.main ...`) take
the same flags.
"""

import difflib
import importlib
import os
import signal
import sys
from typing import NamedTuple

import borrow_det
from borrow_det.io import streams


class Command(NamedTuple):
    """A sub-command.

    Attributes:
      module: the module to import.
      summary: one line for the overview.
    """

    module: str
    summary: str


_TOOLS = "borrow_det.tools"
COMMANDS = {
    "train": Command("borrow_det.main", "Train a detector and evaluate it."),
    "evaluate": Command(
        f"{_TOOLS}.evaluate", "Evaluate a trained run on a split or a folder."
    ),
    "predict": Command(
        f"{_TOOLS}.predict.__main__", "Detect objects in images and videos."
    ),
    "explain": Command(
        f"{_TOOLS}.explain.__main__", "Show what each detection borrowed from."
    ),
    "inspect": Command(
        f"{_TOOLS}.inspect.__main__",
        "Show a dataset before training: objects, lenders, mistakes, duplicates.",
    ),
    "convert": Command(
        f"{_TOOLS}.convert.__main__",
        "Convert YOLO, VOC, CVAT or LabelMe folders to COCO.",
    ),
    "export": Command(
        f"{_TOOLS}.export.__main__", "Export a trained run to StableHLO or ONNX."
    ),
    "score": Command(f"{_TOOLS}.score", "Score a COCO results file."),
    "ablate": Command(
        f"{_TOOLS}.ablate.__main__", "Run a sweep of variants over several seeds."
    ),
    "design-anchors": Command(
        f"{_TOOLS}.design_anchors.__main__", "Design anchors for a dataset."
    ),
    "benchmark": Command(
        f"{_TOOLS}.benchmark.__main__", "Time the programs of one or two configs."
    ),
    "aot-compile": Command(
        f"{_TOOLS}.aot_compile.__main__", "Compile a run for a TPU slice, without one."
    ),
    "import-weights": Command(
        f"{_TOOLS}.import_weights", "Convert published weights for config.init_from."
    ),
}


def main() -> None:
    """Runs the command that `sys.argv` names, and exits with its status."""
    streams.prepare()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(overview())
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        print(f"borrow-det {borrow_det.__version__}")
        sys.exit(0)
    name = arguments[0].replace("_", "-")
    if name not in COMMANDS:
        print(f"error: {_unknown(arguments[0])}", file=sys.stderr)
        sys.exit(2)
    # ml_collections searches sys.argv for the fields of a config that are set.
    sys.argv = [f"borrow-det {name}", *arguments[1:]]
    # Config files may import modules of the current folder, as under `python -m`.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    if name == "train" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        # As in main.py: an exception could get lost in the modules that are imported.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    module = importlib.import_module(COMMANDS[name].module)
    if name == "train":
        module.run()  # absl's runner, which also sets up logging.
    from borrow_det.tools.common import cli

    sys.exit(cli.call(module.main, sys.argv))


def overview() -> str:
    """Returns the text of `borrow-det --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {c.summary}" for name, c in COMMANDS.items()]
    return "\n".join(
        [
            "usage: borrow-det COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            "borrow-det COMMAND --help lists the flags of a command.",
        ]
    )


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]}?" if close else "borrow-det --help lists them"
    return f"{name!r} is not a command of borrow-det; {guess}"


if __name__ == "__main__":
    main()
