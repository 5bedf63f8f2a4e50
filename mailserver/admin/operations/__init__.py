"""The operations, a module for each topic: what is done, beside the words that ask for it."""
