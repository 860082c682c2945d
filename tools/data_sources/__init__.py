"""What tools/get_data.py knows.

catalog.py    every dataset: where it comes from, in which order, size, licence
extras.py     what methods need beside images: CuPL's sentences, MoCo v3's weights
sources.py    kinds of sources: files by address, a Hugging Face repository, torchvision
drive.py      Google Drive's links and its page about large files
arrange.py    unpacked archives -> the tree of DATASETS.md
selection.py  TerraIncognita's locations and classes, DomainNet's duplicates
"""
