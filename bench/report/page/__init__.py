"""The report page: every stored record in one HTML file that opens anywhere, and asks nobody."""
