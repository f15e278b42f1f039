"""One cell, one process; and sweeps of them."""
