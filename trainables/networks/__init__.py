"""Networks to start from, by name."""
