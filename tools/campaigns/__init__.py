"""Runs under faults: what is disturbed, how, and what must be the same afterwards.

subjects.py   the small commands that are disturbed
attempts.py   a command once: killed or signalled at a moment, and what outlives it
traces.py     what runs leave: results and checkpoints as digests; what should not be left
soak.py       many runs in one process · nodes.py a node of Ray is killed · places.py full and
              read-only places · hosts.py two hosts on one folder
"""
