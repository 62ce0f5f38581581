"""Results of suites: rows, statistics, tables, plots, the page, and the comparison of two runs."""
