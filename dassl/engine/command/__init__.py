"""A command line of ``train.py`` and its run.

cli.py       flags, and the config that they make
finished.py  runs that are finished, and commands known to mean one
run.py       one run: check its folder, train or evaluate, record
"""
