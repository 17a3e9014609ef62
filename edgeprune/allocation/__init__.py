"""How wide each group may be."""
