"""Narrower networks: channel groups, what they are worth and cost, and levels that view shared weights."""
