"""The engine of suites: cells are computed by one process, a pool or a cluster, and stored one by one."""
