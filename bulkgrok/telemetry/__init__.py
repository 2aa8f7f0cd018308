"""Observers of a run: its log and its progress. Nothing here changes what a run does; a broken one stops nothing."""
