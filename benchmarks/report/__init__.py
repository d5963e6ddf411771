"""What a run says: figures, tables, plots."""
