"""What lies in a search's folder, by its path there; here alone, so that who carries or sweeps it forgets nothing."""

EXPERIMENT = "experiment.yaml"
SEARCH_ID = "search-id"
"""What tells the search from every other."""
DATA_DIGEST = "data-digest"
"""Of the images that it began with."""
DATA_PLACE = "data-place"
"""Where a relative `data.path` led to."""
JOURNAL = "study.journal"
"""Of Optuna."""
RUNGS = "rungs.jsonl"
"""What early stopping has seen and decided."""
ARCHIVE = "archive.parquet"
NEW_CANDIDATES = "archive.new.jsonl"
"""Those that are not in the archive's own file yet."""
REPEATS = "confirm.parquet"
"""What the front's members came to with other seeds."""
PACKING = "packing.json"
"""What a trial takes of a card."""

TEACHER = "teacher"
TEACHER_RESULT = "result.json"
"""Its figures, in its folder."""
TEACHER_NETWORK = "network"
"""The network itself, in its folder."""
LATENCY = f"{TEACHER}/latency.json"
"""The times of its layers."""

TRACKING = "tracking"
SPOOL = f"{TRACKING}/spool.jsonl"
"""Records that wait for MLflow."""
LINKS = f"{TRACKING}/links.json"
"""Where runs are to be seen there, as it was last."""

CANDIDATES = "candidates"
"""Networks of finished trials."""
TRIALS = "trials"
"""What running trials write, and Ray Tune of them; in a bucket their checkpoints, and word to stop."""
STATES = "states"
"""Checkpoints that a bucket did not take."""
CURVES = "curves"
"""Learning curves."""
RUNNING_CURVES = f"{CURVES}/_running"
"""Those of trials that have not ended; readers of Parquet pass over what begins with an underscore."""
CONFIRM = "confirm"
"""What the front's members write while they are trained again; in a bucket likewise."""
CONFIRM_TRIALS = f"{CONFIRM}/{TRIALS}"
CONFIRM_STATES = f"{CONFIRM}/{STATES}"
CONFIRM_NETWORKS = f"{CONFIRM}/networks"
EXPORTS = "exports"

STATE = "state.json"
"""Of a search in a bucket: what makes up its state; see `snapshot`."""
STAGES = "stages"
"""In the folder of all searches: finished stages."""
ARTIFACTS = "mlartifacts"
"""In the folder of all searches: what its own MLflow keeps."""

FRONT_PAGE, FRONT_PICTURE = "front.html", "front.png"
OVERVIEW = "overview.html"

RESULTS = (ARCHIVE, NEW_CANDIDATES, REPEATS)
"""Files of what trials came to."""
CARRIED = (
    EXPERIMENT,
    SEARCH_ID,
    DATA_DIGEST,
    DATA_PLACE,
    JOURNAL,
    RUNGS,
    *RESULTS,
    PACKING,
    LATENCY,
    SPOOL,
)
"""Files that a driver writes, all of which make up the search's state; networks and checkpoints go another way."""
FOR_PEOPLE = (ARCHIVE, FRONT_PAGE, FRONT_PICTURE, OVERVIEW)
"""Files that people and other tools look for."""
CARRIED_FOLDERS = (CURVES,)
"""Folders of such files."""
WRITTEN = (
    "",
    TEACHER,
    CANDIDATES,
    TRIALS,
    STATES,
    CURVES,
    RUNNING_CURVES,
    CONFIRM_TRIALS,
    CONFIRM_STATES,
    CONFIRM_NETWORKS,
)
"""Folders that a driver and its trials write into, the search's own first."""
