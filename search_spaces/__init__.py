"""What is searched over: functions from an Optuna trial to a cascade, and complete experiments by name."""
