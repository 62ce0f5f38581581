"""Methods made for 1 to 8 network evaluations, by a prior that is a consistency function. `base` has what they share."""
