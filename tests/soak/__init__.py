"""A year of operation in fast motion, under clients that compare every byte."""
