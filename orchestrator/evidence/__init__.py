"""Studies: what each part of a cascade is worth, arm against arm at equal budget, with several seeds.

All but `command` and `cluster` does without Ray, Optuna and MLflow: `python -m orchestrator.evidence STUDY.yaml` runs a
study on a machine that has torch, torch-pruning, NumPy, Arrow and YAML alone.
"""
