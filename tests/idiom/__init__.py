"""A trainer and a dataset in the idiom of code written for the original packages."""
