"""Hostile inputs, area by area: `make hostile` runs all of them and prints the verdicts."""
