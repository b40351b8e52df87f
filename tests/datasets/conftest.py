"""That this file is here lets the tests in the folders below import the helpers in this one, by their bare names."""
