"""How strategies are measured: workloads, devices, one process a cell, records, report."""
