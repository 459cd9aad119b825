"""Train the members of a search's front again with new seeds, so that a front is not a list of lucky draws.

Repeats run as the search's own trials did, on Ray, with the same teacher and images. They are kept beside the search,
never in its archive or study, and test images are not read.
"""

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from orchestrator.data.datasets import load_splits
from orchestrator.experiment.config import Experiment
from orchestrator.front.repeats import MOST_SEEDS, Repeat, RepeatFile
from orchestrator.machines.cluster import check_nodes
from orchestrator.preparation.packing import pack, without_cards
from orchestrator.preparation.session import ray_session
from orchestrator.searches.asked import Asked
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.images import find_images
from orchestrator.searches.layout import CONFIRM, CONFIRM_NETWORKS, CONFIRM_TRIALS, PACKING, REPEATS
from orchestrator.searches.mirror import driving
from orchestrator.searches.same_search import require_same_data
from orchestrator.searches.trial_bucket import TrialBucket
from orchestrator.tracking import Tracker
from orchestrator.trials.parts import make_teacher_task, trainable
from orchestrator.trials.queue import latest_state, remove_states
from orchestrator.trials.waves import run_waves, sweep
from trainables.config import CascadeConfig
from trainables.identity import data_digest
from trainables.results import EpochProgress, LevelResult, Reused
from trainables.seeds import derive_seed

_log = logging.getLogger(__name__)


def new_seed(cascade: CascadeConfig, index: int) -> int:
    """Seed of a cascade's repeat, in [0, 2⁶³): the same whenever it is asked for, and not the cascade's own."""
    return derive_seed(cascade.seed, "confirm", index)


def run_repeats(  # noqa: PLR0913
    experiment: Experiment,
    folder: SearchFolder,
    cascades: Mapping[int, CascadeConfig],
    *,
    num_seeds: int,
    told: Callable[[Repeat], None],
    tracker: Tracker,
    say: Callable[[str], None],
) -> bool:
    """Train what has not been trained yet; whether all is there now, or the user interrupted.

    Args:
        experiment: of the search.
        folder: of the search.
        cascades: to repeat, by the number of their trial.
        num_seeds: repeats of each, at least 1.
        told: hears of each repeat that ends.
        tracker: MLflow.
        say: takes a line for people.

    Raises:
        InputError: if the images have changed, or Ray or MLflow are not to be had.
        OSError: if nothing more can be written.
    """
    where, _ = find_images(folder, experiment.data)
    experiment = experiment.model_copy(update={"data": where})
    data = load_splits(experiment.data, say)
    digest = data_digest(data)
    require_same_data(folder, digest)
    tracker.follow_move()
    with folder.locked(), driving(folder, say) as mirror:
        folder.sweep()
        queue = RepeatQueue(folder, cascades, num_seeds=num_seeds)
        if not (queue.num_waiting or queue.num_new):
            return True
        with ray_session(experiment.resources):
            check_nodes(folder.bucket or folder.storage, address=experiment.resources.address)
            tracker.check()
            if mirror is not None:
                mirror.begin()
            tracker.join_search(folder.name, folder.search_id)
            tracker.log_repeats(queue.file.read())  # what a process that was killed could not tell
            experiment = without_cards(experiment, say)
            task = make_teacher_task(experiment, folder, digest)
            at_once = experiment.resources.at_once(queue.num_new)
            experiment = pack(experiment, task, data, file=folder.path / PACKING, at_once=at_once, say=say).experiment
            networks = folder.path / CONFIRM_NETWORKS
            sweep(queue.states, queue)
            trials = trainable(
                experiment, task, data, digest, networks=networks, measure_latency=False, store=queue.store
            )
            try:
                run_waves(
                    trials,
                    queue,
                    _Recorder(queue, told, tracker, num_val=None if data.multi_label else len(data.val)),
                    resources=experiment.resources,
                    max_concurrent=experiment.resources.max_concurrent,
                    storage=queue.states,
                    go_on="the same command",
                )
            finally:
                tracker.leave()
        done = not queue.unfinished
        if done:
            shutil.rmtree(folder.path / CONFIRM)  # networks of repeats are not candidates
            if folder.bucket is not None:
                with suppress(OSError):
                    folder.bucket.remove(CONFIRM)
        return done


class RepeatQueue:
    """Repeats that are still to be trained, as trials for Tune."""

    def __init__(self, folder: SearchFolder, cascades: Mapping[int, CascadeConfig], *, num_seeds: int) -> None:
        """See what there is to do.

        Args:
            folder: of the search.
            cascades: to repeat, by the number of their trial.
            num_seeds: repeats of each.
        """
        self.file = RepeatFile(folder.path / REPEATS)
        self.states = folder.path / CONFIRM_TRIALS
        place = folder.path / CONFIRM
        self.store = None if folder.bucket is None else TrialBucket(folder.bucket.within(CONFIRM), place)
        self._done = {repeat.key for repeat in self.file.read()}
        self._repeats = {
            trial * (MOST_SEEDS + 1) + index: Repeat(trial=trial, index=index, seed=new_seed(cascade, index))
            for index in range(1, num_seeds + 1)
            for trial, cascade in cascades.items()
            if (trial, index) not in self._done
        }
        self._cascades = dict(cascades)
        self._to_give = list(self._repeats)

    @property
    def num_waiting(self) -> int:
        """None: one that was begun is given out like a new one, and looks for its checkpoint."""
        return 0

    @property
    def num_new(self) -> int:
        """Repeats that are still to be given out."""
        return len(self._to_give)

    @property
    def unfinished(self) -> frozenset[int]:
        """Numbers of repeats that have not ended."""
        return frozenset(self._repeats)

    def next(self) -> dict[str, Any] | None:
        """Configuration of the next repeat."""
        if not self._to_give:
            return None
        number = self._to_give.pop(0)
        state = latest_state(self.states, number)
        return {
            "trial": number,
            "cascade": self.given(number).cascade.to_dict(),
            "state": None if state is None else str(state),
        }

    def given(self, number: int) -> Asked:
        """A repeat as a trial."""
        repeat = self._repeats[number]
        return Asked(number=number, cascade=dataclasses.replace(self._cascades[repeat.trial], seed=repeat.seed))

    def repeat(self, number: int) -> Repeat:
        """The same without its result."""
        return self._repeats[number]

    def take_back(self, number: int) -> None:
        """Give a repeat out again, to go on from its last checkpoint."""
        self._to_give.insert(0, number)

    def ended(self, number: int) -> None:
        """Forget a repeat, and free what it only needed to go on."""
        self._repeats.pop(number, None)
        remove_states(self.states, number)


class _Recorder:
    """Keeps what repeats come to."""

    def __init__(
        self, queue: RepeatQueue, told: Callable[[Repeat], None], tracker: Tracker, *, num_val: int | None
    ) -> None:
        self._queue = queue
        self._num_val = num_val
        self._told = told
        self._tracker = tracker

    def started(self, asked: Asked) -> None:
        """A repeat begins, or goes on."""
        self._tracker.start_repeat(self._queue.repeat(asked.number))

    def trained(self, number: int, epochs: int) -> None:
        """Nothing."""

    def epoch(self, number: int, progress: EpochProgress) -> None:
        """Nothing; a repeat is short of news."""

    def finished(
        self, asked: Asked, results: Sequence[LevelResult], networks: Mapping[int, str], reused: Reused
    ) -> None:
        """A repeat gave a network of every level."""
        accuracies = tuple(result.val_accuracy for result in sorted(results, key=lambda result: result.level))
        repeat = self._queue.repeat(asked.number)
        self._keep(dataclasses.replace(repeat, val_accuracies=accuracies, num_val=self._num_val))

    def stopped(
        self, asked: Asked, results: Sequence[LevelResult], networks: Mapping[int, str], reused: Reused, reason: str
    ) -> None:
        """Not of repeats: each runs to its end."""
        self.failed(asked.number, reason)

    def failed(self, number: int, reason: str) -> None:
        """A repeat gave nothing."""
        self._keep(dataclasses.replace(self._queue.repeat(number), failure=reason))

    def note(self, text: str) -> None:
        """Something about all repeats that people should know."""
        _log.warning("%s", text)

    def _keep(self, repeat: Repeat) -> None:
        self._queue.file.add(repeat)
        self._tracker.log_repeats([repeat])
        self._told(repeat)
