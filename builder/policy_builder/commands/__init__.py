"""The commands that people and Bazel run."""
