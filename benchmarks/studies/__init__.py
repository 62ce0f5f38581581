"""Studies that invgen is judged by: exact posteriors, evidence, speed, tuning. `invgen bench study NAME` runs one."""
