"""Images to train on: read, held in memory or streamed, parted, augmented and mixed."""
