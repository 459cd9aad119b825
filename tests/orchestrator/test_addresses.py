from pathlib import Path

import pytest
from sqlalchemy import make_url

from orchestrator.addresses import (
    database_at_home,
    database_uri,
    setting_without_credentials,
    tracking_uri,
    without_all_credentials,
    without_all_secrets,
    without_credentials,
)
from orchestrator.experiment.config import Experiment


def test_addresses_anywhere_in_a_text_lose_their_credentials():
    text = "study={url: 'postgresql://me:pw@host/db', warm_start: [mysql://me:pw@host/a#b, c]}"
    assert without_all_credentials(text) == ("study={url: 'postgresql://host/db', warm_start: [mysql://host/a#b, c]}")
    assert without_all_credentials("num_trials=3") == "num_trials=3"


def test_an_experiment_that_is_shown_has_no_credentials():
    study = {"url": "postgresql://me:pw@host/db", "warm_start": ["mysql://me:pw@host/a#b", "mine"]}
    experiment = Experiment(study=study, tracking={"uri": "http://me:pw@host"})
    assert "pw" not in experiment.without_secrets().to_yaml()
    assert experiment.without_secrets().study.url == "postgresql://host/db"
    assert experiment.without_secrets().study.warm_start == ("mysql://host/a#b", "mine")


def test_a_database_may_lie_in_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert database_at_home("sqlite:///~/studies.db#mine") == f"sqlite:///{tmp_path}/studies.db#mine"
    for other in ("sqlite:///here~/x.db", "sqlite:////~/x.db", "http://host/~me", "~/runs/mine"):
        assert database_at_home(other) == other
    study = {"url": "sqlite:///~/studies.db", "warm_start": ["sqlite+pysqlite:///~/others.db"]}
    experiment = Experiment(study=study)
    assert experiment.study.url == f"sqlite:///{tmp_path}/studies.db"
    assert experiment.study.warm_start == (f"sqlite+pysqlite:///{tmp_path}/others.db",)
    assert tracking_uri("sqlite:///~/mlflow.db", Path("runs")) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///~/all.db")
    assert tracking_uri(None, Path("runs")) == f"sqlite:///{tmp_path}/all.db"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://u:pw@host:5000/path", "http://host:5000/path"),
        ("http://u:Zm9/v+geheim@127.0.0.1:5099", "http://127.0.0.1:5099"),
        ("http://u:geh#eim@host", "http://host"),
        ("http://u:p%40ss/w@rd@127.0.0.1:5099", "http://127.0.0.1:5099"),
        ("postgresql://u:a?geheim@h/db", "postgresql://h/db"),
        ("postgresql://u:a'geheim@h/db", "postgresql://h/db"),
        ("postgresql://u:geheim@h/db?sslpassword=geheim", "postgresql://h/db"),
        ("mysql://token@h/a#b", "mysql://h/a#b"),
        ("http://host:8080/path?mail=me@there", "http://host:8080/path"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://host/me@work", "http://host/me@work"),
        ("http://host", "http://host"),
        ("http://host:5000/team@x", "http://host:5000/team@x"),
        ("http://[::1]:5000/me@work", "http://[::1]:5000/me@work"),
        ("http://mlflow@mlflow.company.com", "http://mlflow.company.com"),
        ("postgresql://optuna:optuna@optuna-db:5432/optuna", "postgresql://optuna-db:5432/optuna"),
    ],
)
def test_of_an_address_only_the_place_is_shown(address, shown):
    assert without_credentials(address, address) == shown
    assert without_all_credentials(f"not reached: '{address}', {address}") == f"not reached: '{shown}', {shown}"


def test_pieces_of_a_password_in_a_message_are_hidden_too():
    uri = "http://u:Zm9/v+geheim@127.0.0.1:5099"
    text = without_credentials(f"{uri}/api: nonnumeric port 'Zm9', path /v+geheim@127.0.0.1", uri)
    assert text == "http://127.0.0.1:5099/api: nonnumeric port '***', path /***@127.0.0.1"


def test_a_message_keeps_what_is_shown_of_the_address():
    uri = "postgresql://optuna:optuna@optuna-db:5432/optuna"
    assert without_credentials(f"{uri}: role optuna has no rights", uri) == (
        "postgresql://optuna-db:5432/optuna: role *** has no rights"
    )


def test_a_setting_that_is_an_address_is_hidden_whatever_signs_it_has():
    assert setting_without_credentials("tracking.uri=http://u:geh, e}im@host") == "tracking.uri=http://host"
    assert setting_without_credentials("study={url: 'mysql://u:pw@h/d'}") == "study={url: 'mysql://h/d'}"
    assert setting_without_credentials("num_trials=3") == "num_trials=3"


def test_a_traceback_loses_pieces_of_passwords_that_are_known_from_elsewhere():
    trace = "ValueError: port could not be cast to integer value as 'Zm9'\nwith url: /v+geheim@127.0.0.1:5099/api"
    told = without_all_secrets(trace, "sync", "--uri=http://u:Zm9/v+geheim@127.0.0.1:5099")
    assert "Zm9" not in told
    assert "geheim" not in told


def test_long_texts_take_no_time():
    assert without_all_credentials("a" * 100_000) == "a" * 100_000


@pytest.mark.parametrize("name", ["runs", "gö ß", "wh?at", "a%41b", "100%", "a#b", "a@b:c;d&e=f"])
def test_the_address_of_a_storage_folders_database_leads_to_it(name):
    assert make_url(database_uri(Path("/top", name))).database == f"/top/{name}/mlflow.db"


def test_an_ordinary_storage_folders_database_has_an_ordinary_address():
    assert database_uri(Path("/my räume/runs")) == "sqlite:////my räume/runs/mlflow.db"
