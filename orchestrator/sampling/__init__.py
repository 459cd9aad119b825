"""The Optuna study of a search: where it is kept, what it learns from, and what is tried next."""
