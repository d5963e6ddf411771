"""A steady load through one fault after the other, beside what docs promise: `./bazelw run //integration:faults`."""
