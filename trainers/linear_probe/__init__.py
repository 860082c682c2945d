"""Linear probe: L2-regularised logistic regression on frozen image features.

method.py    the classifier and its fit
c_search.py  the search for the inverse regularisation strength C
trainer.py   LinearProbe
"""

from .method import LinearClassifier, accuracy, fit_logistic_regression
from .trainer import LinearProbe

__all__ = ["LinearClassifier", "LinearProbe", "accuracy", "fit_logistic_regression"]
