"""Images as files hold them, and what is said of those that cannot be read."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.errors import InputError


def encoded(pixels: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    """Pixels in a format of Pillow's, with what Pillow is told of it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    """What an error says, which is one line."""
    text = str(error.value)
    assert "\n" not in text
    return text
