"""The detector of blobs in place of a trained run."""

import pytest

from borrow_det.inference.detector import Detector
from tests.tools.predict.blobs import BlobDetector


@pytest.fixture
def detector(monkeypatch):
    blobs = BlobDetector()
    monkeypatch.setattr(Detector, "load", staticmethod(lambda workdir, step: blobs))
    return blobs
