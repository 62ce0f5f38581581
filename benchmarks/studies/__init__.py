"""Studies that invgen is judged by: exact laws, evidence, speed, tuning, peers. `invgen bench study NAME` runs one."""
