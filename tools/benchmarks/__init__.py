"""One module per benchmark: ``run(args) -> list of rows``; args has threads, repeat, quick.

mma.py, dmn.py, amu.py, vl2v.py, tpt.py    one method each, beside its straightforward form
cache_adapters.py, text_tower.py           adapters and probes; the text tower
feature_bank.py, pixels.py, views.py       stored features; evaluating from pixels; training views
_images.py                                 images to time with
gpu                                        one command for a machine with a GPU
"""
