from orchestrator.front.candidates import candidates_of, cascade_of, results_of
from trainables.config import CascadeConfig
from trainables.results import LevelResult


def test_candidates_of_a_trial_take_every_level() -> None:
    cascade = CascadeConfig(macs_kept=(0.3, 0.1))
    results = [
        LevelResult(
            level=level,
            num_levels=2,
            val_accuracy=0.9 - level / 10,
            val_accuracy_before_recalibration=0.5,
            macs=100 * (3 - level),
            macs_kept=kept,
            params=10,
            params_kept=0.2,
            fidelity=level / 4,
        )
        for level, kept in ((2, 0.1), (1, 0.3))
    ]
    made = candidates_of(7, results, {1: "trials/7/1", 2: "trials/7/2"}, cascade)
    assert [(c.label, c.num_assistants, c.macs_kept, c.network, c.fidelity) for c in made] == [
        ("7:1", 1, 0.3, "trials/7/1", 0.25),
        ("7:2", 1, 0.1, "trials/7/2", 0.5),
    ]
    assert cascade_of(made[0]) == cascade
    assert list(results_of(made)) == sorted(results, key=lambda result: result.level)
