"""Fuzz targets, their corpus, and the test that runs the corpus again."""
