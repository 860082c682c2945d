"""Stored features of any frozen image encoder: computed once, shared by methods, shots and seeds.

encoder.py      what an encoder is: pixels in [0, 1] -> raw features; any torch network as one
views.py        what an image becomes before an encoder sees it
reader.py       decode each image once for many views
encode.py       encode what is missing
store.py        rows on disk that several processes append to
bank.py         the face: FeatureBank
rows.py         rows of a bank for a list of images
paired.py, given.py  two banks read side by side; a bank over given tensors
precomputed.py  a test loader of numbers that are computed already
"""
