"""Records to tables, figures and README. Nothing here imports torch or a strategy."""
