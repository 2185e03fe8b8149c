# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart
#
# This notebook trains a narrow detector on `scale_pairs`, evaluates it, and looks at
# what small objects borrow from. Training takes 2 to 8 minutes on two CPU cores.
#
# Install the package first: `pip install .` in a checkout of the repository.

# %%
import io
import json
import os
import pathlib
import sys

import PIL.Image
from IPython.display import display

from borrow_det import Detector
from borrow_det.data import sources

# Other values make a smaller run, as the tests do.
config = os.environ.get("QUICKSTART_CONFIG", "quickstart")
workdir = os.environ.get("QUICKSTART_WORKDIR", "runs/quickstart")

# %% [markdown]
# ## Train
#
# In `scale_pairs`, a small disc has the class of the large striped disc of the same
# color. The small disc itself does not show its class.
#
# The command below is `borrow-det train`. Run it again to resume an interrupted run.

# %%
# !{sys.executable} -m borrow_det train --config={config} --workdir={workdir}

# %% [markdown]
# ## Load the detector

# %%
detector = Detector.load(workdir)
print(detector)

# %% [markdown]
# ## Metrics
#
# `small_accuracy` is the fraction of small discs that are classified correctly: 1/4 is
# chance, and 1/2 needs no matching. On `swapped`, the large discs are redrawn as other
# classes; on `alone`, they are removed, and no detector can do better than chance.

# %%
for split in ("validation", "swapped", "alone"):
    file = pathlib.Path(workdir, "evaluations", split, f"{detector.step}.json")
    metrics = json.loads(file.read_text())
    print(f"{split:10}", {name: metrics[name] for name in ("AP", "AP_small")})

file = pathlib.Path(workdir, "evaluations", "counterfactual", f"{detector.step}.json")
if file.exists():
    print(json.dumps(json.loads(file.read_text()), indent=2))


# %% [markdown]
# ## Detect
#
# A detector is called on a path, a NumPy array, a PIL image, or a list of these.


# %%
def scene(split):
    """Returns the first image of a split."""
    record = sources.load(detector.config.dataset, f"{split}[:1]")[0]
    return PIL.Image.open(io.BytesIO(record["image"]))


found = detector(scene("validation"))
for detection in found.filter(score=0.4):
    print(f"{detection.class_name:12} {detection.score:.2f}", detection.box.round(1))
display(found.plot())

# %% [markdown]
# The result is also available as arrays, and as records in COCO's results format.

# %%
print(found.boxes.shape, found.scores.shape, found.labels.shape)
print(found.to_coco()[:1])

# %% [markdown]
# ## Change only the large discs
#
# The same scene in `swapped`: the small discs are the same to the pixel, and only the
# large ones are redrawn. A detector that borrows changes its answers for the small
# discs, too.

# %%
display(detector(scene("swapped")).plot())

# %% [markdown]
# ## Where a small disc borrows from
#
# `borrow-det explain` draws the attention of small detections: lines to the strongest
# source positions, and a heat map of each deeper level.

# %%
output = f"{workdir}_explanations"
# !{sys.executable} -m borrow_det explain --workdir={workdir} --output={output} \
#     --split="validation[:2]"

# %%
pictures = sorted(pathlib.Path(output, "pictures").glob("*.jpg"))
if pictures:
    display(PIL.Image.open(pictures[0]))
