from orchestrator.addresses import without_all_credentials
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
