"""Protocols as lists of runs: plan, checks before the first run, execution, closing table.

sets.py       which datasets stand for what: transfer targets, domains to leave out
plan.py       a protocol as a list of runs with their dependencies
preflight.py  all that is wrong, said before the first run
launcher.py   runs in child processes that share one start-up
closing.py    the table, published numbers and next steps at the end
"""
