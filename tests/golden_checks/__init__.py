"""Checkers of golden cases, one module per method, and what they share."""
