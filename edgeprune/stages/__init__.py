"""The bodies of the job's stages; pipeline.py puts them in order."""
