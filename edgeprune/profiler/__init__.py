"""What a device says of a model: layers, memory, and comparisons with their doubt."""
