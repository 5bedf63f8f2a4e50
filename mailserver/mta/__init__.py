"""Decisions: where mail goes, who may log in, what is accepted."""
