"""Studies that invgen is judged by: exact posteriors, evidence, speed, tuning, peers. `invgen bench study NAME` runs one."""
