"""What runs keep below VLTUNE_CACHE.

kinds.py    which files are whose, what to say about them, how to check them
entries.py  what there is, and its removal
sizes.py    sizes and ages in words
"""
