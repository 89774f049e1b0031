"""`python -m benchmark COMMAND`: everything around the training of one run, which is train.py.

`protocols` (the runs that make a table), `launch` (starts them and collects their results),
`records` and `report` (tables, plots and a page of these), `data` (download, check-data, features),
`measure` (time, memory, operations), `inspect` (methods, and what a run has learned).
"""
