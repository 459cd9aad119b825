"""What results are of beyond a study's settings: the content of its images, and of its teacher's weights.

Keys of runs leave both out, as images may be moved: a study's folder says which they were, for each teacher and images
that its settings name.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from orchestrator.evidence.folder import RESULTS
from orchestrator.evidence.material import StudyImages
from orchestrator.evidence.plan import StudyPlan, digest_of_teacher
from orchestrator.evidence.results import ResultFile
from orchestrator.evidence.schedule import all_runs
from orchestrator.storage.whole_files import checksum_of, write_atomically
from trainables.errors import InputError

SOURCES = "sources.json"
_SHOWN = 12  # characters of a digest, which tell any two apart

Sources = Mapping[str, str]
"""Digests, by the setting that says where what they are of lies."""


def sources_of(plan: StudyPlan, images: StudyImages) -> Sources:
    """Of a study's images and, where it reads its teacher, of the file."""
    weights = plan.model.weights
    return {"data.path": images.digest()} | ({} if weights is None else {"model.weights": checksum_of(Path(weights))})


def require_same_sources(plan: StudyPlan, sources: Sources, folder: Path) -> None:
    """Refuse others than a folder's results with these settings are of; a folder that says nothing takes any.

    Raises:
        InputError: if images or weights were changed, or lie elsewhere and are others.
    """
    began = _read(folder).get(digest_of_teacher(plan), sources)
    for setting, digest in sources.items():
        was = began.get(setting, digest)
        if was != digest:
            raise InputError(
                f"what lies under {setting} is not what the results in {folder} are of (its digest is "
                f"{digest[:_SHOWN]}… and was {was[:_SHOWN]}…), so results of both would mix; put it back, or give this "
                "study a folder of its own by another name"
            )


def keep_sources(plan: StudyPlan, sources: Sources, folder: Path, say: Callable[[str], None]) -> None:
    """Write down what results with these settings are of from now on.

    Args:
        plan: the study.
        sources: of it now.
        folder: of the study, which is locked.
        say: told where results are there of which nothing says it.

    Raises:
        InputError: as `require_same_sources` does.
    """
    require_same_sources(plan, sources, folder)
    known, results = _read(folder), ResultFile(folder / RESULTS).read()
    teacher = digest_of_teacher(plan)
    if teacher not in known and any(key in results for key in all_runs(plan, results)):
        say(f"note: nothing says which images the results in {folder} are of; they are taken to be of these")
    write_atomically(folder / SOURCES, json.dumps(known | {teacher: sources}, indent=1).encode())


def _read(folder: Path) -> dict[str, Sources]:
    path = folder / SOURCES
    if not path.exists():
        return {}
    try:
        return {
            str(teacher): dict(sources) for teacher, sources in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged, and says which images results are of; remove it if these are the same still"
        ) from error
