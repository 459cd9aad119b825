"""What a search's own Ray is to others."""

import subprocess
import sys

import pytest

_ANOTHER = """
from orchestrator.experiment.resources import Resources
from orchestrator.machines.joining import require_shared
from orchestrator.preparation.session import ray_session

with ray_session(Resources()):
    require_shared()
"""


@pytest.mark.integration
def test_the_ray_of_another_search_is_no_cluster():
    done = subprocess.run([sys.executable, "-c", _ANOTHER], capture_output=True, text=True, check=False, timeout=240)
    last = done.stderr.strip().splitlines()[-1]
    assert "InputError: resources.address is 'auto', but the Ray that runs here belongs to another search" in last
