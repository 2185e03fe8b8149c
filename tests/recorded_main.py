"""Runs borrow_det.main and records the batches that each process makes.

    python tests/recorded_main.py -m borrow_det.main ARGS

Scripts can start it in place of Python. Environment variables: RECORD_TO, a folder for
`PROCESS.jsonl`, which has the image ids that the process read for each training batch,
and a hash of the global batch; SECONDS_A_STEP, a delay added to each step.
"""

import hashlib
import json
import os
import pathlib
import signal
import sys
import time

if __name__ == "__main__":
    # As in main.py; and tests may run in the background, where Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import jax

from borrow_det import main
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.distributed import processes

put_batch = mesh_lib.put_batch


def recorded_put_batch(batch, mesh):
    time.sleep(float(os.environ.get("SECONDS_A_STEP", 0)))
    # An evaluation's fields have no identity.
    if "RECORD_TO" in os.environ and "image_id" in batch:
        digest = hashlib.sha256()
        for name in sorted(batch):
            digest.update(processes.all_rows(batch[name]).tobytes())
        line = {"own": batch["image_id"].tolist(), "hash": digest.hexdigest()}
        path = pathlib.Path(os.environ["RECORD_TO"]) / f"{jax.process_index()}.jsonl"
        with path.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
    return put_batch(batch, mesh)


if __name__ == "__main__":
    mesh_lib.put_batch = recorded_put_batch
    sys.argv = sys.argv[2:]  # Without `-m`: its name comes next.
    main.run()
