"""Write candidates as files to deploy, verify and measure what was written, and describe it.

The test images are read here and nowhere before: whatever was chosen was chosen without them.

Shape legend: N images, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from orchestrator.data.datasets import load_test, training_images
from orchestrator.data.shard_bucket import say_nothing
from orchestrator.exports.card import Card, FileFacts, NetworkFacts
from orchestrator.exports.delivery import ELSEWHERE, check_destination, check_room, deliver
from orchestrator.exports.formats import (
    CARD_FILE,
    INT8_FILE,
    ONNX_FILE,
    README_FILE,
    ExportOptions,
    Format,
)
from orchestrator.exports.measure import Arms, measure, versions
from orchestrator.exports.originals import Origin, Original, check_data, load_candidate, load_teacher
from orchestrator.exports.readme import markdown
from orchestrator.exports.reload import Request
from orchestrator.exports.verify import Verification, check_finite, save_images, verify
from orchestrator.exports.write import remove_files, write_files
from orchestrator.front.archive import Candidate
from orchestrator.front.candidates import cascade_of
from orchestrator.storage.staging import Existing, disk_full, staging
from orchestrator.storage.whole_files import checksum_of
from trainables.datasets.images import Source
from trainables.errors import InputError, StageFailure, told
from trainables.files.deployment import as_taken, logits_of, trace
from trainables.hardware.machine import processor_name
from trainables.stages.evaluation import guess
from trainables.tensors import tensors_digest

__all__ = ["Exported", "Failed", "Job", "Origin", "export_each"]

_TEACHER_ONNX = "teacher.onnx"
_STAGING = "export"  # of whichever candidates: what a killed export has left goes with the next one beside it
_CALIBRATION_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One candidate, and where it goes.

    Attributes:
        candidate: of the search's archive.
        destination: folder to make; it may be there if it is empty.
        existing: whether an export that is there is kept, which is an error, or replaced.
    """

    candidate: Candidate
    destination: Path
    existing: Existing = "keep"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written for one candidate.

    Attributes:
        folder: the finished folder.
        card: all facts of the network, those formats included that failed and are not delivered.
    """

    folder: Path
    card: Card


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A candidate of which nothing was written.

    Attributes:
        candidate: which.
        reason: why.
    """

    candidate: Candidate
    reason: str


def export_each(
    jobs: Sequence[Job], *, origin: Origin, options: ExportOptions, say: Callable[[str], None] = say_nothing
) -> Iterator[Exported | Failed]:
    """Write candidates as folders to deploy, each verified, measured, and with its card, one after the other.

    Everything is checked before anything is written, for all candidates; one that fails then does not keep others back.
    Nothing else should run on the machine meanwhile, since latency is measured. A format that cannot be written or does
    not verify is left out, and the card says so; without any that does, nothing is written.

    Args:
        jobs: the candidates.
        origin: the search.
        options: what is asked for.
        say: told what is fetched from a bucket, and, each reason once, why latency is not measured somewhere.

    Yields:
        What came of each, in order, as soon as it is there.

    Raises:
        InputError: if a destination is taken or its disk too full, or a package, a network or the data set is
            missing, damaged or does not belong to the candidate.
        OSError: if the disk fills up.
    """
    jobs = [replace(job, destination=job.destination.resolve()) for job in jobs]
    for job in jobs:
        check_destination(job.destination, job.existing)
        cascade_of(job.candidate)
    for job in jobs:
        load_candidate(job.candidate, origin)
    teacher = load_teacher(origin)
    test = load_test(origin.data, say)  # the first time that anything looks at these images
    check_data(test, teacher.saved.input)
    check_room(
        jobs[0].destination, options.formats, [job.candidate.params for job in jobs], teacher.params, test.images
    )
    say = cache(say)  # of a whole front, each line once
    with staging(jobs[0].destination, name=_STAGING, mend=ELSEWHERE) as folder:
        with disk_full(folder):
            bench = _bench(folder, origin=origin, options=options, teacher=teacher, test=test, say=say)
        for job in jobs:
            result: Exported | Failed
            try:
                with disk_full(folder):
                    result = _export(job, bench)
            except StageFailure as failure:
                result = Failed(candidate=job.candidate, reason=failure.reason)
            yield result


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bench:
    """What all exports of a search share.

    Attributes:
        folder: for files that are gone afterwards; the test images lie there.
        origin: the search.
        options: what was asked for.
        teacher: the dense network.
        teacher_facts: of its logits on the test images.
        teacher_onnx: its ONNX file, where one is measured and can be written.
        test: the test images.
        calibration_NCHW: training images as the int8 file takes them; empty without that format.
        say: told why latency is not measured somewhere.
    """

    folder: Path
    origin: Origin
    options: ExportOptions
    teacher: Original
    teacher_facts: NetworkFacts
    teacher_onnx: Path | None
    test: Source
    calibration_NCHW: torch.Tensor
    say: Callable[[str], None]


def _bench(  # noqa: PLR0913
    folder: Path,
    *,
    origin: Origin,
    options: ExportOptions,
    teacher: Original,
    test: Source,
    say: Callable[[str], None],
) -> _Bench:
    saved, images = teacher.saved, test.images
    save_images(folder, images)
    teacher_onnx = None
    if "onnxruntime" in options.runtimes and options.needs_onnx:
        teacher_onnx = _teacher_onnx(folder, teacher, options, say)
    elif "onnxruntime" in options.runtimes:
        say("latency in ONNX Runtime is not measured, as no format that was asked for is an ONNX file")
    calibration_NCHW = torch.empty(0)
    if "int8" in options.formats:
        from orchestrator.exports.int8_file import CALIBRATION_IMAGES

        pixels_NCHW = training_images(origin.data, CALIBRATION_IMAGES, seed=_CALIBRATION_SEED, say=say)
        calibration_NCHW = as_taken(pixels_NCHW, saved.input, options.pixels)
    logits_NK = logits_of(saved.network, images.images_NCHW, saved.input, "normalised")
    return _Bench(
        folder=folder,
        origin=origin,
        options=options,
        teacher=teacher,
        teacher_facts=teacher.facts(logits_NK, images),
        teacher_onnx=teacher_onnx,
        test=test,
        calibration_NCHW=calibration_NCHW,
        say=say,
    )


def _teacher_onnx(folder: Path, teacher: Original, options: ExportOptions, say: Callable[[str], None]) -> Path | None:
    """Write the teacher's ONNX file, in which its latency is measured; without one the network's has no counterpart."""
    from orchestrator.exports.onnx_file import open_session, write_onnx

    path, saved = folder / _TEACHER_ONNX, teacher.saved
    try:
        write_onnx(trace(saved.network, saved.input, pixels=options.pixels), path, opset=options.opset)
        open_session(path, num_threads=options.num_threads)
    except InputError as error:
        say(f"latency in ONNX Runtime is not measured, as the teacher has no ONNX file: {told(error, folder)}")
        return None
    return path


def _export(job: Job, bench: _Bench) -> Exported:
    candidate, origin, options = job.candidate, bench.origin, bench.options
    original = load_candidate(candidate, origin)
    spec, images = original.saved.input, bench.test.images
    check_data(bench.test, spec)
    logits_NK = logits_of(original.saved.network, images.images_NCHW, spec, "normalised")
    check_finite(logits_NK)
    digest = tensors_digest(original.saved.network.state_dict())
    with TemporaryDirectory(dir=bench.folder) as scratch:
        package = Path(scratch) / "package"
        unwritten = write_files(original, package, options, spare=bench.folder, calibration_NCHW=bench.calibration_NCHW)
        written = tuple(format for format in options.formats if format not in unwritten)
        if not written:
            raise StageFailure(f"it cannot be written: {_reasons(unwritten)}", stage="export")
        request = Request(
            package=str(package),
            formats=written,
            model=origin.model.name,
            input=spec,
            pixels=options.pixels,
            num_threads=torch.get_num_threads(),  # the same sums in the same order
        )
        checked = verify(request, bench.folder, expected_NK=logits_NK, digest=digest, labels=images.labels_N)
        checked = replace(checked, refused={**unwritten, **checked.refused})
        delivered = _drop_refused(package, checked)
        card = Card(
            search_name=origin.name,
            search_id=origin.search_id,
            trial=candidate.trial,
            level=candidate.level,
            fidelity=candidate.fidelity,
            cascade=cascade_of(candidate),
            model=origin.model,
            data=origin.data,
            input=spec,
            pixels=options.pixels,
            opset=options.opset if {"onnx", "int8"} & set(delivered) else None,
            num_calibration_images=len(bench.calibration_NCHW) if "int8" in delivered else 0,
            test_guess=guess(images.labels_N),
            network=original.facts(logits_NK, images),
            network_digest=digest,
            teacher=bench.teacher_facts,
            verification=checked,
            latency=measure(_arms(bench, original, package, delivered), options, bench.say),
            files={path.name: _facts(path) for path in sorted(package.iterdir())},
            processor=processor_name(),
            versions=versions(delivered),
            license_name=options.license_name,
        )
        readme = markdown(card)
        (package / README_FILE).write_text(readme, encoding="utf-8")
        (package / CARD_FILE).write_text(card.to_json(readme) + "\n", encoding="utf-8")
        deliver(package, job.destination, job.existing)
    return Exported(folder=job.destination, card=card)


def _reasons(refused: Mapping[Format, str]) -> str:
    """Why formats are not delivered, each reason once."""
    return "; ".join(dict.fromkeys(refused.values()))


def _drop_refused(package: Path, checked: Verification) -> tuple[Format, ...]:
    """Take out what does not verify; gives the formats that do."""
    if not checked.files:
        raise StageFailure(f"nothing that was written verifies: {_reasons(checked.refused)}", stage="export")
    remove_files(package, checked.refused)
    return tuple(check.format for check in checked.files)


def _arms(bench: _Bench, original: Original, package: Path, delivered: Sequence[Format]) -> Arms:
    paths = {"onnx": package / ONNX_FILE, "int8": package / INT8_FILE}
    return Arms(
        dense=bench.teacher.saved.network,
        pruned=original.saved.network,
        shape=original.saved.input.shape,
        dense_onnx=bench.teacher_onnx,
        pruned_onnx={format: path for format, path in paths.items() if format in delivered},
    )


def _facts(path: Path) -> FileFacts:
    return FileFacts(bytes=path.stat().st_size, sha256=checksum_of(path))
