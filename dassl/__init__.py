"""The engine: config, data, training loop, evaluation. Implements the Dassl 0.6 API.

config, data, features        settings; images and loaders; stored features
engine, optim, modeling       trainers; optimisers and schedules; networks by name
evaluation, metrics, utils    evaluators; accuracy; files, checkpoints, processes
flags.py, terminal.py         a command-line parser; what may be printed
lazy.py                       packages that load a name when it is asked for

Importing it costs nothing beyond this line: sub-packages load what they need when imported.
"""

__version__ = "0.6.3"
