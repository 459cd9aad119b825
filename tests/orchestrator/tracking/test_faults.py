import pytest

from orchestrator.tracking.faults import cause_of, fault_of


class Told(Exception):
    """An error with a code, as MLflow's have."""

    def __init__(self, text, code=""):
        super().__init__(text)
        self.error_code = code


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (Told("no such run", "RESOURCE_DOES_NOT_EXIST"), "gone"),
        (Told("no", "PERMISSION_DENIED"), "denied"),
        (Told("API request to endpoint /api failed with error code 401 != 200. Response body: ''"), "denied"),
        (Told("API request to endpoint /api failed with error code 403 != 200. Response body: ''"), "denied"),
        (RuntimeError('FATAL:  password authentication failed for user "me"'), "denied"),
        (
            Told(
                "API request failed with exception HTTPConnectionPool: Read timed out after 4010 ms", "INTERNAL_ERROR"
            ),
            "passing",
        ),
        (
            Told("API request to http://it/api failed with exception too many 503 error responses", "INTERNAL_ERROR"),
            "passing",
        ),
        (Told("API request to endpoint /api failed with error code 413 != 200. Response body: ''"), "passing"),
        (Told("API request to endpoint /api failed with error code 404 != 200.", "ENDPOINT_NOT_FOUND"), "passing"),
        (Told("INVALID_PARAMETER_VALUE: Tag value exceeded length limit", "INVALID_PARAMETER_VALUE"), "other"),
        (Told("(psycopg.OperationalError) server closed the connection", "TEMPORARILY_UNAVAILABLE"), "passing"),
        (ConnectionResetError("[Errno 104] Connection reset by peer"), "passing"),
        (TimeoutError("timed out"), "passing"),
        (Told("(sqlite3.OperationalError) database or disk is full", "TEMPORARILY_UNAVAILABLE"), "unwritable"),
        (Told("(sqlite3.OperationalError) disk I/O error\n[SQL: …]", "TEMPORARILY_UNAVAILABLE"), "unwritable"),
        (Told("(sqlite3.OperationalError) database is locked", "TEMPORARILY_UNAVAILABLE"), "unwritable"),
        (Told("Invalid value 'No space left on device'", "INVALID_PARAMETER_VALUE"), "other"),
        (Told("too many SQL variables\n[parameters: 'disk is full']", "TEMPORARILY_UNAVAILABLE"), "passing"),
        (ValueError("anything"), "other"),
    ],
)
def test_errors_are_told_apart(error, fault):
    assert fault_of(error) == fault


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("No module named 'boto3'", "boto3 is not installed; pip install 'cascade-pruning[aws]'"),
        ("No module named 'psycopg'", "psycopg is not installed; pip install 'cascade-pruning[postgresql]'"),
        ("No module named 'pymysql'", "pymysql is not installed; install pymysql"),
        ("failed with error code 401 != 200", "user and password are refused; set MLFLOW_TRACKING_USERNAME"),
        ("failed with error code 403 != 200", "this user may not write there"),
        ("first\nsecond", "first"),
        ("", "ValueError"),
        ("x" * 900, "x" * 200),
    ],
)
def test_causes_are_one_line_with_the_mend(text, said):
    assert cause_of(ValueError(text)).startswith(said)
    assert "\n" not in cause_of(ValueError(text))


def test_the_first_cause_is_told():
    error = RuntimeError("API request failed")
    error.__cause__ = ConnectionError("[Errno 111] Connection refused")
    assert cause_of(error) == "[Errno 111] Connection refused"
