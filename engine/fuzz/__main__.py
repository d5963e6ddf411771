"""Runs the fuzz target. Needs `atheris`, which is not part of the lock. From the top of the workspace:

    PYTHONPATH=engine python -m fuzz engine/fuzz/corpus -max_total_time=600 -max_len=2048

New inputs are added to the corpus.
"""

import logging
import sys

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore] # only fuzzing itself needs it

with atheris.instrument_imports(include=["policy_engine.transport", "hpack"]):
    from fuzz import native_transport

logging.disable()
atheris.Setup(sys.argv, native_transport.run)
atheris.Fuzz()
