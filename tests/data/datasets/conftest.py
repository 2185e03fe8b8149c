"""Folders of the formats, written file by file."""

import PIL.Image
import pytest


@pytest.fixture
def write(tmp_path):
    """Writes files by name, of a text or an image of (width, height); returns DIR."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content)
            else:
                PIL.Image.new("RGB", content).save(path)
        return tmp_path

    return write
