"""A search on disk and in a bucket: its folder, curves and finished stages, and what is read from them."""
