"""Settings that a run was given, against those that it reads.

flag_checks.py        flags that set keys, and flags that would do nothing
shared_conditions.py  conditions that several trainers put on settings
trained.py            an evaluation takes the settings of the training
undeclared.py         keys that a trainer does not declare
unread.py             settings that somebody gave and nothing reads
"""
