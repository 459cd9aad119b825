"""Files and buckets: what is read is whole, or is not there."""
