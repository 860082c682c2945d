"""Sets of one's own: what a folder or a table holds, how its classes are called, how it is split.

``listing.py`` what is read · ``folder.py`` class, split and domain folders · ``table.py`` CSV ·
``names.py`` readable class names · ``read.py`` a set with its names · ``divide.py`` train, val and
test · ``audit.py`` all that a reader should know before training.
"""
