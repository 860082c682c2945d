"""A trainer and a data set in the idiom of code written for the original packages."""
