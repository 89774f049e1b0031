"""Report the results of runs as tables, plots and a page: one path from a record to a cell.

    records.Outcome ─ frame ──────── summary ─────── tables ── Table ─ text, LaTeX (table, latex)
    of a folder       a row a run    means, averages   │ cut by place       and page
    or log.txt        and metric     (+ published) ────┴─ panels ── plots; render: CSV, JSON
                        └─ per_image ─ paired ─ compare ─ Table, findings

Two frames carry it: the tidy one (`frame`, named by `training` and `own_sets`) and the summary,
whose rows `tables` cuts whatever their metric. `notes` has the words: places, and sentences below
tables. `further` adds what `--metrics` shows, `classes` are tests and their classes, `single` are
runs by their folders, and `command` chooses what is shown.
"""
