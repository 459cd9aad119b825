"""Early stopping under Ray Tune: rungs that outlive the driver, and how a trial is told to stop.

Tune's own way to stop a trial gives it no last word. Here it is told by a note in the search's folder, finds it before
its next epoch, and ends with the networks that have reached their sizes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler

from orchestrator.policies.rungs import STOPPING_OBJECTIVES, EarlyStopping, Passing, Rungs
from orchestrator.storage.lines import append_lines_durably
from orchestrator.storage.whole_files import write_atomically
from orchestrator.trials.wave import Wave, breaks_the_wave
from orchestrator.words import percent
from trainables.errors import InputError
from trainables.tune_adapter import stop_note


class StoredRungs:
    """Rungs in a file of one line a passing, each on disk before its decision is acted on."""

    def __init__(self, path: Path, settings: EarlyStopping, *, seed: int) -> None:
        """Read what is there, or begin.

        Args:
            path: the file; a last line that was cut off as the driver died is passed over.
            settings: when trials are compared, and how many go on; the same as when the file was begun.
            seed: of the rungs, likewise.

        Raises:
            InputError: if the file is damaged.
        """
        self.settings = settings
        self._path = path
        self._rungs = Rungs(settings, objectives=STOPPING_OBJECTIVES, seed=seed)
        if path.exists():
            self._rungs.restore(_read(path, num_rungs=len(settings.fractions)))

    def report(self, trial: int, standing: dict[str, Any]) -> bool:
        """Tell how far a trial is; whether it goes on.

        Args:
            trial: its number.
            standing: `results.Standing` as a dictionary.
        """
        num_before = len(self._rungs.passings)
        goes_on = self._rungs.report(trial, standing["fraction"], standing["points"])
        lines = [json.dumps(passing.to_dict()) + "\n" for passing in self._rungs.passings[num_before:]]
        if lines:
            append_lines_durably(self._path, "".join(lines).encode())
        return goes_on


def _read(path: Path, *, num_rungs: int) -> list[Passing]:
    whole, _, _cut_off = path.read_text(encoding="utf-8").rpartition("\n")
    passings = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            passing = Passing.from_dict(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"line {number} of {path} is damaged; remove the file to begin with empty rungs"
            ) from error
        if not 0 <= passing.rung < num_rungs:
            raise InputError(
                f"line {number} of {path} is of rung {passing.rung}, but there are {num_rungs}; "
                "remove the file to begin with empty rungs"
            )
        passings.append(passing)
    return passings


class RungScheduler(FIFOScheduler):  # type: ignore[misc]
    """Compares trials at rungs, and leaves a note for those that are to stop."""

    def __init__(
        self, wave: Wave, rungs: StoredRungs, stops: Path, told: Callable[[dict[str, Any], str], None] | None = None
    ) -> None:
        """Take the parts.

        Args:
            wave: whose trials are compared.
            rungs: what decides.
            stops: folder in which trials look for their `stop_note`.
            told: takes configuration and reason instead, where trials do not see that folder.
        """
        super().__init__()
        self._wave = wave
        self._rungs = rungs
        self._stops = stops
        self._told = told

    @breaks_the_wave(otherwise=FIFOScheduler.CONTINUE)
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ANN401
        """A trial trained an epoch; `result` comes flattened."""
        number = trial.config["trial"]
        if "standing/fraction" in result:
            standing = {"fraction": result["standing/fraction"], "points": result["standing/points"]}
            if not self._rungs.report(number, standing):
                # The next epoch is asked for only after this returns, so the trial cannot miss it.
                reason = self._reason(standing["fraction"])
                if self._told is None:
                    write_atomically(stop_note(self._stops, number), reason.encode())
                else:
                    self._told(trial.config, reason)
        return str(FIFOScheduler.CONTINUE)

    def _reason(self, fraction: float) -> str:
        best = percent(1 / self._rungs.settings.reduction_factor, 0)
        return f"early stopping after {percent(fraction, 0)} of its epochs, not among the best {best} then"

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its configuration beside the trials; the rungs are on disk already.
        return {}
