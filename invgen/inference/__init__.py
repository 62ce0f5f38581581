"""Tasks on a posterior: solve, recommend, simulate, forecast, calibrate, tune, check."""
