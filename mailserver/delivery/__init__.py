"""Couriers: they carry a queued message to another host and say what became of it for each recipient."""
