"""Which channels matter, and how much a width costs in loss."""
