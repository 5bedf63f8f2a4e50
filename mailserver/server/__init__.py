"""The composition root: what a running server is made of, and how it starts, reloads and stops."""
