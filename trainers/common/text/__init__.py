"""Text side of the methods.

templates.py            sentence patterns, and the sets of them that papers use
descriptions.py         sentences per class: CuPL's descriptions, ensembles
encode.py               sentences and prompt embeddings -> text features
learned.py              learned context around class names
deep_prompts.py         hooks that insert learned tokens into both towers
independent_prompts.py  uncoupled prompts in both towers (IVLP, VPT, PromptSRC)
"""
