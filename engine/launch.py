#!/usr/bin/python3 -IB
"""The command `policy-engine` in an image and from Bazel; an installed wheel has its own.

-I: neither the environment nor the working directory adds code. -B: the image's file system is read-only.
"""

import runpy

runpy.run_module("policy_engine", run_name="__main__", alter_sys=True)
