"""The Ray cluster: its machines, how many trials run at once, and ranks that share a trial."""
