"""Records and studies as files. No torch."""
