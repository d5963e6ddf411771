"""Second stage: everything that is wrong with a choice, in one report."""
