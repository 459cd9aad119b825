"""How a search chooses and when it stops: samplers, early stopping, budgets, and cheap looks at what was drawn."""
