"""Networks and states on disk, none of which is a pickle."""
