"""`python -m benchmark COMMAND`: everything around the training of one run, which is train.py.

A room imports only from those named before it: cli, protocols (which runs make a table), report
(from results of runs to tables, plots and a page), data (download, check-data), measure (time,
memory, operations), launch (from what is asked for to runs, and these to their results). Beside
them, on protocols, report and measure, stands inspect (what a run has learned).
"""
