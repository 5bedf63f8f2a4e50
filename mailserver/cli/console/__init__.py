"""`mailserver console`: phrases, typed by a person at a terminal, for this server or one elsewhere."""
