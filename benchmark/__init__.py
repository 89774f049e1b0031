"""`python -m benchmark COMMAND`: everything around the training of one run, which is train.py.

Each package imports only from those listed before it: cli, protocols (the runs that make a table),
report (tables, plots and a page from the records of runs), data (download, check-data), measure
(time, memory, operations), launch (starts the runs of a protocol and collects their results),
inspect (methods, and what a run has learned).
"""
