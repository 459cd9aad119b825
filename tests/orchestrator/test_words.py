"""Numbers as people read them."""

import pytest

from orchestrator.words import counted, duration, percent, printable


@pytest.mark.parametrize(
    ("fraction", "text"), [(1.0, "100.0 %"), (0.1, "10.0 %"), (0.0994, "9.9 %"), (0.05, "5 %"), (0.0049, "0.49 %")]
)
def test_percent(fraction, text):
    assert percent(fraction) == text


@pytest.mark.parametrize(
    ("fraction", "decimals", "text"),
    [
        (0.93274, 2, "93.27 %"),
        (0.0432, 2, "4.32 %"),
        (0.09994, 2, "9.99 %"),
        (0.09996, 2, "10.00 %"),
        (0.75, 0, "75 %"),
        (1e-7, 0, "0 %"),
        (1e-5, 2, "0.001 %"),
    ],
)
def test_percent_with_other_decimals(fraction, decimals, text):
    assert percent(fraction, decimals) == text


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3 s"), (63, "1 min 03 s"), (3725, "1 h 02 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 trials"), (1, "1 trial"), (2000, "2,000 trials")])
def test_counted(number, text):
    assert counted(number, "trial") == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("café 東京 \\n 👩\u200d🔬", "café 東京 \\n 👩\u200d🔬"),
        ("a\x1b[31m\tb\n", r"a\x1b[31m\tb\n"),
        ("cat\u202egnp.exe\u200b", r"cat\u202egnp.exe\u200b"),
        ("caf\udce9", r"caf\udce9"),
    ],
)
def test_what_cannot_be_seen_is_written_as_python_writes_it(name, text):
    assert printable(name) == text
