"""One page that says what a search found: self-contained HTML, readable without a network."""
