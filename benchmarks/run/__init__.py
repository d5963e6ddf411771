"""How a run goes: programs, load, lanes, rounds, results."""
