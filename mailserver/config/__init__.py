"""The directory `config/` as frozen, checked values; errors name file, key and the form expected."""
