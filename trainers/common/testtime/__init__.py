"""Test-time evaluation: a stream of test images, one step each, no labels.

stream.py           the stream and one step's answer
trainer.py          StreamTrainer
settings.py         what its config node holds
views.py            views of test images: centre crop, seeded augmentations, AugMix
confident_views.py  the lowest-entropy views of an image
report.py           a row per image, a summary, a picture
resume.py           what lets a stream resume after a kill
"""
