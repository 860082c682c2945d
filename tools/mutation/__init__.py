"""Planting faults: the list of them, and the runs that show which tests notice.

faults.yaml  the planted faults
faults.py    a fault: one piece of text of one file, and what stands there instead
runs.py      tests on a copy of the tree, with and without a fault in it
"""
