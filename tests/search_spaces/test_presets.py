"""What is said of the presets is so."""

import pytest

from search_spaces.presets import PRESETS, PURPOSES


def test_each_preset_has_a_purpose():
    assert list(PURPOSES) == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_purpose_says_what_its_preset_needs(name):
    preset, purpose = PRESETS[name], PURPOSES[name]
    assert ("data.path" in purpose) == (preset["data"]["name"] != "digits")
    gpus = preset.get("resources", {}).get("gpus_per_trial", 0)
    assert {0: "CPU", 0.25: "a quarter of a GPU", 0.5: "half a GPU"}[gpus] in purpose
