"""Which channels hang together, and their physical removal."""
