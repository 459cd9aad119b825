"""What MLflow's errors mean for who has to send a record."""

import re
from typing import Literal

Fault = Literal["denied", "gone", "unwritable", "passing", "other"]
FULL = "disk is full|No space left|quota exceeded"
"""How databases and file systems say that there is no room."""

_DENIED = re.compile(
    r"error code 40[13]|UNAUTHENTICATED|PERMISSION_DENIED|password authentication failed", re.IGNORECASE
)
_UNWRITABLE = re.compile(f"{FULL}|I/O error|is locked", re.IGNORECASE)
# By what MLflow's client says of answers that are not MLflow's own, as a proxy's are, it has this code too, or any.
_PASSING = (
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "CANCELLED",
    "ABORTED",
)
_NOT_ITS_OWN = re.compile(r"API request to endpoint \S+ failed with error code \d+ ")
_NEEDS = re.compile(r"No module named '(boto3|botocore|psycopg2?|pymysql|azure|google)")
_EXTRAS = {"boto3": "aws", "botocore": "aws", "psycopg": "postgresql"}


def fault_of(error: BaseException) -> Fault:
    """What an error says of a record.

    Returns:
        `denied` if we may not send it, `gone` if what it is about is not there, `unwritable` if nothing can be written
        now, `passing` if another try may work, as no answer came or none that says what is wrong with the record; else
        `other`, such as a refusal.
    """
    code = str(getattr(error, "error_code", ""))
    if code == "RESOURCE_DOES_NOT_EXIST":
        return "gone"
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED") or _DENIED.search(str(error)):
        return "denied"
    # What is refused may hold any text, that of a failure say, so it takes the code of a database's driver too.
    if code == "TEMPORARILY_UNAVAILABLE" and _UNWRITABLE.search(cause_of(error)):
        return "unwritable"
    if code in _PASSING or _NOT_ITS_OWN.match(str(error)) or isinstance(error, ConnectionError | TimeoutError):
        return "passing"
    return "other"


def root_of(error: BaseException) -> BaseException:
    """The error that an error was raised from in the first place."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return error


def cause_of(error: BaseException) -> str:
    """One line that says what an error was raised from, and what to install where that is all."""
    error = root_of(error)
    text = str(error)
    missing = _NEEDS.search(text)
    if missing is not None:
        extra = _EXTRAS.get(missing[1])
        mend = f"pip install 'cascade-pruning[{extra}]'" if extra else f"install {missing[1]}"
        return f"{missing[1]} is not installed; {mend}"
    if re.search(r"error code 401", text):
        return "user and password are refused; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token"
    if re.search(r"error code 403", text):
        return "this user may not write there"
    lines = text.strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
