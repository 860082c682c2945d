"""Training in steps over several domains, with model selection and weight averaging (DomainBed).

trainer.py     StepTrainer: the loop, evaluation every F steps
settings.py    STEPS, SWAD and the defaults of the protocol
domains.py     one endless stream of images per source domain
evaluation.py  per-domain evaluation that computes nothing twice
selection.py   best checkpoint, SWAD, early stop
files.py       best, swad and deployed files of a run
checks.py      what is refused before any work
cutmix.py      mixed images
stages.py      trainers made of several runs
"""
