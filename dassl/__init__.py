"""The engine: config, data, training loop, evaluation. Implements the Dassl 0.6 API.

Importing it costs nothing beyond this line: sub-packages load what they need when imported.
"""

__version__ = "0.6.3"
