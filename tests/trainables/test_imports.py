"""Functions of the user's own are found in the current folder, which comes first once one is named."""

import sys

import pytest

from trainables.errors import InputError
from trainables.imports import import_function


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("nets_of_mine", None)


def test_a_module_of_the_current_folder_is_found(here):
    (here / "nets_of_mine.py").write_text("def small():\n    return 3\n")
    assert import_function("nets_of_mine:small", key="model.name")() == 3


def test_a_module_of_the_current_folder_comes_before_an_installed_one_of_its_name(here, monkeypatch, tmp_path_factory):
    installed = tmp_path_factory.mktemp("installed")
    (installed / "nets_of_mine.py").write_text("def small():\n    return 4\n")
    (here / "nets_of_mine.py").write_text("def small():\n    return 3\n")
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    assert import_function("nets_of_mine:small", key="model.name")() == 3  # as where Ray's processes look


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("small = 3", "'nets_of_mine:small', but that is a int, not a function"),
        ("1 / 0", "'nets_of_mine:small', but it cannot be imported: division by zero"),
        ("", "'nets_of_mine:small', but it cannot be imported: module 'nets_of_mine' has no attribute 'small'"),
    ],
)
def test_what_cannot_be_imported_is_named_with_its_key(here, code, says):
    (here / "nets_of_mine.py").write_text(code)
    with pytest.raises(InputError, match=f"model.name is {says}"):
        import_function("nets_of_mine:small", key="model.name")


@pytest.mark.parametrize(
    ("path", "mend"),
    [
        ("no_net:f", "No module named 'no_net'; give the command in the folder where no_net.py lies, or install it"),
        ("no_nets.small:f", "'no_nets'; give the command in the folder where the folder no_nets lies, or install it"),
        ("nets_of_mine:f", "No module named 'no_net'; install it, or give the command in the folder where it lies"),
    ],
)
def test_a_module_that_is_not_there_is_told_with_its_mend(here, path, mend):
    (here / "nets_of_mine.py").write_text("import no_net")
    with pytest.raises(InputError, match=f"^model.name is '{path}', but it cannot be imported: .*{mend}$"):
        import_function(path, key="model.name")
