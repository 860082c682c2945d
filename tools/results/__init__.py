"""Reading, aggregating and printing the results of runs.

records.py, logs.py, published.py  runs on disk, numbers in logs, published numbers
settings.py, series.py             which runs may be averaged, and which belong together
statistics.py, averages.py         means over seeds and over datasets
lists.py, base2new.py, transfer.py, domains.py  one file per kind of table
tables.py, wide.py                 what tables are made of
report.py, legacy.py               tables as text, and as the original parsers print them
"""
