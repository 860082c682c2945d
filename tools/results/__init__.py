"""Reading, aggregating and printing the results of runs.

records.py, logs.py, published.py, settings.py, series.py    runs on disk, and which belong together
statistics.py, averages.py, measures.py                      means, spreads, calibration
lists.py, base2new.py, transfer.py, domains.py               one file per kind of table
comparison.py, pairs.py, scatter.py, figures.py              methods beside each other
tables.py, wide.py                                           what tables are made of
report.py, page.py, legacy.py    tables as text, as a page, as the original parsers print them
"""
