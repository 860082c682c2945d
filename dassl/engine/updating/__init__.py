"""What happens to gradients and parameters in a step.

updates.py      on a whole batch, in parts of it, shared among processes
numerics.py     precision and determinism on a GPU
step_losses.py  losses that stay on the device until a log line
prograd.py      the gradient projection of ProGrad
subspace.py     the gradient projection of subspace prompt learning
"""
