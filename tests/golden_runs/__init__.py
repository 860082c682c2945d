"""Whole runs against recorded numbers: command line -> draw -> training -> results -> table.

Unlike the numbers of tests/golden, which come from the methods' official code, these were recorded
from this package, when the mathematics had been compared: they show that something has changed, not
what is right. A change that is meant is recorded again, all cases or some, by

    python tests/record_runs.py [CASE ...]
"""
