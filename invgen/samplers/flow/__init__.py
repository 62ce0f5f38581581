"""Methods made for flow-matching priors. `_flow` has what they share."""
