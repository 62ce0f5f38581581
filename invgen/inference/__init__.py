"""What is done with a posterior: solve, recommend, simulate, forecast, calibrate, tune, check."""
