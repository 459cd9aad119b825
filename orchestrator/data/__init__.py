"""Data sets by name: in files, in Parquet and in shards, here or in a bucket."""
