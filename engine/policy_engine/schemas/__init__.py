"""JSON Schemas of the files that people write, and descriptions of policies, made from what reads them."""
