"""What does not fit into this machine's memory is refused before any of it is taken."""

import pytest

from trainables.errors import InputError
from trainables.hardware import machine
from trainables.hardware.machine import machine_bytes, processor_name, require_room_for_images


@pytest.mark.parametrize(("text", "bytes_"), [("4096\n", 4096), ("max\n", None), (None, None)])
def test_a_containers_limit_is_the_machine(tmp_path, text, bytes_):
    if text is not None:
        (tmp_path / "memory.max").write_text(text)
    unlimited = machine_bytes([])
    assert unlimited > 2**20
    assert machine_bytes([tmp_path / "memory.max"]) == (bytes_ or unlimited)


def test_images_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(machine, "machine_bytes", lambda: 3 * 10 * 64**2)
    require_room_for_images(10, channels=3, size=64)
    with pytest.raises(InputError, match=r"data\.image_size is 64, at which 11 images take .* this machine has"):
        require_room_for_images(11, channels=3, size=64)


def test_the_processor_has_a_name():
    assert processor_name().strip()
