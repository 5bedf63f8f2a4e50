"""Perspective Broker, as operators' programs speak it: what comes in, what goes out, what can be called."""
