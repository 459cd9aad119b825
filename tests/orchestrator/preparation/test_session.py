"""What a search's own Ray is to others."""

import os
import sys

import pytest

from orchestrator.experiment.resources import Resources
from orchestrator.machines.joining import require_shared
from orchestrator.preparation.session import ray_session
from trainables.errors import InputError


@pytest.mark.integration
def test_the_ray_of_another_search_is_no_cluster(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    message = r"^resources\.address is 'auto', but the Ray that runs here belongs to another search"
    with ray_session(Resources()), pytest.raises(InputError, match=message):
        require_shared()
