"""What happened to one request, and why: one record for `explain`, the live trace, the decision log and `diff`."""
