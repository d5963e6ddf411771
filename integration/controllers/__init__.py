"""The engine behind the control planes that people run: what is written for them, and the controllers themselves."""
