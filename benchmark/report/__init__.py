"""From results of runs to tables, plots and a page."""
