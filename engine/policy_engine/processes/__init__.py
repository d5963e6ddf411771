"""The processes of an engine: the supervisor, its pool of worker processes, and what each of them runs."""
