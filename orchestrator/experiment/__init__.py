"""What a search is, as people write it: read, checked and explained."""
