from pathlib import Path


def check_convolutions(file, model, counted):
    pass
