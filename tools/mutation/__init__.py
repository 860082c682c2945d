"""Planting faults: the list of them, and the runs that show which tests notice."""
