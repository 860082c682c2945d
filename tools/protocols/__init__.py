"""Protocols as lists of runs: plan, checks before the first run, execution, closing table."""
