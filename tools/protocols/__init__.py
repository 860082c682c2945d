"""Protocols as lists of runs: plan, checks before the first run, execution, closing table.

sets.py       which datasets stand for what: transfer targets, domains to leave out
plan.py       a protocol as a list of runs with their dependencies
preflight.py  all that is wrong, said before the first run (disk.py: the disk that it takes)
schedule.py   which run may start next, and what failed is tried again
execute.py    do the runs of a plan on an executor
launcher.py   runs in child processes that share one start-up (server.py: their fork server)
executors.py  runs on a Ray cluster (ray_agents.py: what outlives its driver) or SLURM
simulation.py runs on many GPUs, by the clock of a plan
closing.py    the table, published numbers and next steps at the end
"""
