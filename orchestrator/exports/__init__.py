"""Networks to deploy: written, read back and verified by another process, measured and described."""
