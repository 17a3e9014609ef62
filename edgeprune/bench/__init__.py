"""edgeprune against its peers at equal measured cost."""
