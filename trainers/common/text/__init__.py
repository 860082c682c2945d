"""Text side of the methods.

templates.py            sentence patterns, and the sets of them that papers use
descriptions.py         sentences per class: CuPL's descriptions, ensembles
encode.py               sentences and prompt embeddings -> text features
groups.py               prompts grouped by length, by device
kept.py                 features of many frozen sentences on disk
class_words.py          the words of a class name, and classes that share them
learned.py              learned context around class names
meta_net.py             CoCoOp's shift of a context by an image
deep_prompts.py         hooks that insert learned tokens into both towers
independent_prompts.py  uncoupled prompts in both towers (IVLP, VPT, PromptSRC)
"""
