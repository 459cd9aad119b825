"""`python -m orchestrator.evidence STUDY.yaml`: a whole study on one machine, without Ray, Optuna and MLflow."""

import argparse
import functools
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from orchestrator.data.left_out import data_notes
from orchestrator.evidence.arms import check_study
from orchestrator.evidence.material import find_device, load_images
from orchestrator.evidence.plan import load_plan
from orchestrator.evidence.processes import RunsLostError, run_study
from orchestrator.evidence.schedule import num_runs
from orchestrator.evidence.sources import keep_sources, sources_of
from orchestrator.forbidden import as_bad_input
from orchestrator.signals import INTERRUPTED, terminated_as_interrupted
from orchestrator.storage.locks import locked
from orchestrator.storage.staging import disk_full
from orchestrator.streams import print_what_can_be
from orchestrator.words import counted
from trainables.errors import InputError, StageFailure, first_line
from trainables.hardware import processor
from trainables.plain import at_home, require_int, require_number

_KEPT = "what is done is kept, and the same command goes on"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.evidence", description=__doc__)
    parser.add_argument("study", help="YAML file of the study")
    parser.add_argument("--out", help="folder of the results; runs/NAME by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as data.path=FOLDER")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=1, help="processes that train at the same time")
    parser.add_argument(
        "--threads", type=int, help="of each process that trains; torch's own number by default, of several workers 1"
    )
    parser.add_argument("--minutes", type=float, help="give up after so long; the same command goes on")
    return parser.parse_args(arguments)


def check_options(options: argparse.Namespace) -> None:
    """See that numbers are in range.

    Raises:
        InputError: naming the option, the rule and the value.
    """
    require_int("--workers", options.workers, at_least=1)
    if options.threads is not None:
        require_int("--threads", options.threads, at_least=1)
    if options.minutes is not None:
        require_number("--minutes", options.minutes, above=0.0)


@terminated_as_interrupted()
def main(arguments: list[str] | None = None) -> int:
    """Run it; 0 if all runs are there, 3 if time was over before, 2 on bad input, 1 if it failed, 130 if stopped."""
    print_what_can_be()
    options = parse(arguments)
    say = functools.partial(print, flush=True)
    try:
        check_options(options)
        source = Path(at_home(options.study))
        plan = load_plan(source, options.set)
        device = find_device(options.device)
        processor.prepare(options.threads)
        for note in data_notes(plan.data):
            say(note)
        images = load_images(plan)
        folder = Path(at_home(options.out or f"runs/{source.stem}"))
        say(f"{counted(num_runs(plan), 'run')}; results in {folder}")
        check_study(plan, images.data)
        sources = sources_of(plan, images)
        with locked(folder, "study"), disk_full(folder, mend="make room, and the same command goes on"):
            keep_sources(plan, sources, folder, say)
            done = run_study(
                plan,
                images,
                folder,
                device=device,
                workers=options.workers,
                threads=options.threads or 1,
                seconds=None if options.minutes is None else 60 * options.minutes,
                say=say,
            )
    except (InputError, StageFailure, OSError) as error:
        told = as_bad_input(error)
        print(f"evidence: {first_line(told)}", file=sys.stderr)
        return 2 if isinstance(told, InputError) else 1
    except BrokenProcessPool:
        print(
            "evidence: a process that trains was killed, or memory ran out, of which fewer --workers take less; "
            f"{_KEPT}",
            file=sys.stderr,
        )
        return 1
    except RunsLostError as error:
        print(f"evidence: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"evidence: stopped; {_KEPT}", file=sys.stderr)
        return INTERRUPTED
    if not done:
        say(f"time is over; {_KEPT}")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
