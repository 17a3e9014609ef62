"""The commands: each is a typed function that calls, renders, and returns an exit code."""
