"""Report the results of runs as tables, plots and a page."""
