"""The command `cascade`. Heavy imports happen inside the command that needs them, so that --help answers at once."""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from orchestrator.addresses import DEFAULT_STORAGE, without_all_credentials, without_all_secrets
from orchestrator.forbidden import as_bad_input
from orchestrator.storage.answers import is_unanswered
from orchestrator.streams import print_what_can_be
from orchestrator.words import printable
from trainables.errors import InputError, StageFailure, first_line
from trainables.plain import at_home

app = typer.Typer(
    help="From a trained image classifier to a Pareto front of physically smaller, verified networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _given(storage: str) -> str:
    if not storage.strip():
        raise InputError(f"--storage is {storage!r}, but must be a folder or a place in a bucket; name one, . say")
    return at_home(storage)


def _place(given: str | None) -> str | None:
    """A path as text: a `Path` would have lost the `./` that says that a `~` behind it is part of a name."""
    return None if given is None else at_home(given)


Storage = Annotated[
    str,
    typer.Option(
        callback=_given,
        envvar="CASCADE_STORAGE",
        help="Folder that holds all searches and the MLflow store, or a place in a bucket, such as s3://BUCKET/PREFIX.",
    ),
]
StudyStorage = Annotated[
    str,
    typer.Option(
        callback=_given, envvar="CASCADE_STORAGE", help="Folder that holds all searches, studies and the MLflow store."
    ),
]
Format = Annotated[Literal["text", "json"], typer.Option(help="How results are printed.")]
FAILED, BAD_INPUT = 1, 2


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: FBT002
) -> None:
    """Take what stands before the command; `main` looks for --debug itself, since it must know it of any error."""
    try:
        Path.cwd()
    except FileNotFoundError as error:  # which the system says of nothing by name, and libraries in worse words
        raise InputError("the current folder is no longer there; change to one that is, by cd") from error


@app.command()
def search(  # noqa: PLR0913
    experiment: Annotated[
        str, typer.Argument(callback=_place, help="A preset, or a YAML file; `cascade presets` lists them.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the search; the preset's or the file's by default.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. --set num_trials=4")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a search that was stopped.")] = False,  # noqa: FBT002
    format: Format = "text",
) -> None:
    """Search cascades of EXPERIMENT and keep every network of every finished trial."""
    from orchestrator.commands import run_search_command

    name = name or (Path(experiment).stem if Path(experiment).suffix else experiment)
    raise typer.Exit(
        run_search_command(experiment, name=name, storage=storage, overrides=set_ or [], resume=resume, format=format)
    )


@app.command()
def front(
    name: Annotated[str, typer.Argument(help="Name of the search.")],
    storage: Storage = DEFAULT_STORAGE,
    format: Format = "text",
) -> None:
    """Print the Pareto front of search NAME and draw it."""
    from orchestrator.commands import print_front

    print_front(name, storage=storage, format=format)


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="Name of the search.")],
    storage: Storage = DEFAULT_STORAGE,
    format: Format = "text",
) -> None:
    """Write the overview of search NAME: one page with the front, what moved it, and how to export it."""
    from orchestrator.commands import write_report

    write_report(name, storage=storage, format=format)


@app.command()
def confirm(  # noqa: PLR0913
    name: Annotated[str, typer.Argument(help="Name of the search.")],
    seeds: Annotated[int, typer.Option(help="New seeds for each member, at least 2.")] = 5,
    pick: Annotated[
        list[str] | None,
        typer.Option(
            help="front, knee, smallest (in the first cost of objectives), most-accurate, or TRIAL:LEVEL; may be "
            "repeated."
        ),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    set_: Annotated[list[str] | None, typer.Option("--set", help="resources.key=value, where it runs.")] = None,
    format: Format = "text",
) -> None:
    """Train members of the front of search NAME again with new seeds; mean and interval of each."""
    from orchestrator.confirm_command import confirm_candidates

    raise typer.Exit(
        confirm_candidates(
            name, picks=pick or [], num_seeds=seeds, storage=storage, overrides=set_ or [], format=format
        )
    )


@app.command()
def export(  # noqa: PLR0913
    name: Annotated[str, typer.Argument(help="Name of the search.")],
    pick: Annotated[
        list[str] | None,
        typer.Option(
            help="knee, smallest (in the first cost of objectives), most-accurate, TRIAL:LEVEL, or front for all its "
            "members; may be repeated.",
            show_default="knee",
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(help="Some of native, onnx, pt2, int8, with commas or one each.", show_default="native,onnx"),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Only networks that lose at most this much validation accuracy: a fraction, 0.01 is a point."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            callback=_place, help="Folder to write (of several: to write TRIAL-LEVEL in); runs/NAME/exports/…."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace exports that are there.")] = False,  # noqa: FBT002
    pixels: Annotated[
        Literal["normalised", "raw"],
        typer.Option("--input", help="What files but native ones take: normalised float32 images, or uint8 pixels."),
    ] = "normalised",
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators, 18 … 25.")] = 18,
    runtimes: Annotated[
        list[str] | None,
        typer.Option(
            "--latency",
            help="Where it is measured: some of eager, compiled, onnxruntime, with commas or one each; or none.",
            show_default="eager,onnxruntime",
        ),
    ] = None,
    num_threads: Annotated[int, typer.Option("--threads", help="CPU threads that latency is measured on.")] = 1,
    license_name: Annotated[
        str | None, typer.Option("--license", help="Licence of the network, for its card: apache-2.0, say.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    format: Format = "text",
) -> None:
    """Write networks of search NAME as files that deploy, verified, with test accuracy, latency and a model card."""
    from orchestrator.export_command import ExportRequest, export_candidates
    from orchestrator.exports.formats import DEFAULT_FORMATS, DEFAULT_RUNTIMES, ExportOptions, listed

    options = ExportOptions(
        formats=cast(Any, listed(formats or DEFAULT_FORMATS)),
        pixels=pixels,
        opset=opset,
        runtimes=cast(Any, listed(runtimes or DEFAULT_RUNTIMES)),
        num_threads=num_threads,
        license_name=license_name,
    )
    request = ExportRequest(
        name=name,
        picks=tuple(dict.fromkeys(pick or ["knee"])),
        max_drop=max_drop,
        out=None if out is None else Path(out),
        existing="replace" if overwrite else "keep",
        options=options,
        storage=storage,
        format=format,
    )
    raise typer.Exit(export_candidates(request))


@app.command()
def study(
    study: Annotated[
        str,
        typer.Argument(callback=_place, help="YAML file of a study; `studies/` in a checkout of the project has some."),
    ],
    name: Annotated[str | None, typer.Option(help="Name of the study; the file's by default.")] = None,
    storage: StudyStorage = DEFAULT_STORAGE,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. --set data.path=FOLDER")] = None,
) -> None:
    """Compare ways to small networks, arm against arm at equal budget, and report; goes on where it was stopped."""
    from orchestrator.searches.places import study_folder
    from orchestrator.study_command import run_study_command

    source, folder = Path(study), study_folder(storage)
    raise typer.Exit(run_study_command(source, name=name or source.stem, storage=folder, overrides=set_ or []))


@app.command()
def check(
    folder: Annotated[str, typer.Argument(callback=_place, help="Folder of an export, from whomever.")],
    format: Format = "text",
) -> None:
    """Compare the export in FOLDER with its card, and see that its files are safe to load; nothing of them is run."""
    from orchestrator.export_command import print_check

    print_check(Path(folder), format=format)


@app.command()
def simulate(  # noqa: PLR0913
    curves: Annotated[
        str,
        typer.Argument(callback=_place, help="Name of a search whose curves are replayed, or a Parquet file of them."),
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="SAMPLER[+start[:N]][+rungs[:FIRST[:FACTOR]]], again for each; others are compared to the first."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Budget: the work of so many full trials.", min=1)] = 60,
    until: Annotated[float, typer.Option(help="Fraction of the best known hypervolume to reach.")] = 0.95,
    seeds: Annotated[int, typer.Option(help="Searches a policy.", min=1)] = 10,
    workers: Annotated[int, typer.Option(help="Trials at the same time.", min=1)] = 4,
    work: Annotated[
        Literal["epochs", "macs"], typer.Option(help="What an epoch counts: 1, or by its size.")
    ] = "epochs",
    corner: Annotated[
        Literal["teacher", "front"],
        typer.Option(help="Hypervolume from the teacher's cost and no accuracy, or just beyond the best known front."),
    ] = "teacher",
    storage: Storage = DEFAULT_STORAGE,
    format: Format = "text",
) -> None:
    """Replay searches on the learning curves of CURVES, and compare samplers, starts and early stopping."""
    from orchestrator.simulations import print_simulation

    print_simulation(
        curves,
        policies=policy or [],
        num_trials=trials,
        until=until,
        num_seeds=seeds,
        num_workers=workers,
        work=work,
        corner=corner,
        storage=storage,
        format=format,
    )


@app.command()
def sync(
    name: Annotated[str, typer.Argument(help="Name of the search or study.")],
    uri: Annotated[str | None, typer.Option(help="MLflow's address, if not where the search was tracked.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Send everything, to an address that has lost it.")] = False,  # noqa: FBT002
    storage: Storage = DEFAULT_STORAGE,
    format: Format = "text",
) -> None:
    """Send MLflow what it did not take of search NAME, and close runs that a killed search left open."""
    from orchestrator.commands import sync_search

    raise typer.Exit(sync_search(name, storage=storage, uri=uri, again=again, format=format))


@app.command()
def ui(
    storage: Storage = DEFAULT_STORAGE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow on the searches of the storage folder, until Ctrl-C."""
    from orchestrator.ui import open_ui

    open_ui(storage, host=host, port=port, say=typer.echo)


@app.command()
def data(  # noqa: PLR0913
    source: Annotated[
        str,
        typer.Argument(
            callback=_place, help="Folder of images (train/CLASS/*, …), of CIFAR's binary files, or of Parquet files."
        ),
    ],
    out: Annotated[
        str, typer.Argument(callback=_place, help="Folder to write, or place in a bucket (s3://BUCKET/PREFIX).")
    ],
    shorter_side: Annotated[
        int | None, typer.Option(help="Shrink images whose shorter side is longer than so many pixels.", min=8)
    ] = None,
    shard_mb: Annotated[int, typer.Option(help="Size of a shard, about, in 10⁶ bytes.", min=1, max=1000)] = 64,
    skip_corrupt: Annotated[int, typer.Option(help="Unreadable images that may be left out.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of the order in which images are stored.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a set that is there.")] = False,  # noqa: FBT002
    format: Format = "text",
) -> None:
    """Turn the images in SOURCE into shards in OUT, which a search reads whole or streams; each is decoded once."""
    from orchestrator.data.shard_writer import WriteOptions
    from orchestrator.data_command import make_shards

    options = WriteOptions(
        shard_bytes=shard_mb * 10**6,
        shorter_side=shorter_side,
        skip_corrupt=skip_corrupt,
        existing="replace" if overwrite else "keep",
    )
    make_shards(source, out, options, seed=seed, format=format)


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="A preset to print as YAML.")] = None,
    format: Format = "text",
) -> None:
    """List the presets and what each needs, or print one as YAML to start your own experiment from."""
    from orchestrator.commands import print_presets

    print_presets(name, format=format)


@app.command()
def clusters(
    name: Annotated[str | None, typer.Argument(help="A cluster file to print.")] = None,
    format: Format = "text",
) -> None:
    """List the cluster files that are ready for Ray, or print one to fill in."""
    from orchestrator.cluster_files import print_clusters

    print_clusters(name, format=format)


def main() -> None:
    """Run the command line; one line for an error, and the exit code that says its kind."""
    print_what_can_be()
    try:
        _run()
    except SystemExit as ended:
        if is_unanswered():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code if isinstance(ended.code, int) else FAILED)
        raise


def _run() -> None:
    try:
        app()
    except Exception as error:
        debug = "--debug" in sys.argv
        if debug:
            typer.echo(
                without_all_secrets(traceback.format_exc(), *sys.argv, os.environ.get("MLFLOW_TRACKING_URI", "")),
                err=True,
            )
        error = as_bad_input(error)
        bad_input = isinstance(error, InputError)
        told = bad_input or isinstance(error, StageFailure | OSError)
        where = "" if debug else " (--debug shows where)"
        line = first_line(error) if told else f"{type(error).__name__}: {first_line(error)}{where}"
        typer.echo(f"cascade: {printable(without_all_credentials(line))}", err=True)
        sys.exit(BAD_INPUT if bad_input else FAILED)
