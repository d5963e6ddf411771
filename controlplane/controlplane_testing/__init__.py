"""What the control plane's own tests share; never part of what is installed."""
