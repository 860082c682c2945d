"""State of a run on disk: what a checkpoint holds, and what resuming needs.

checkpoints.py    files of registered models, and which file a folder means
near_runs.py      the runs around a folder that is not one
resume.py         the rolling resume file
partial_epoch.py  where a run is within an epoch
rng.py            every random state
plain.py          what may go into these files: data, never objects
"""
