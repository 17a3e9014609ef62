"""Winning accuracy back after channels are gone."""
