"""Reading, aggregating and printing the results of runs."""
