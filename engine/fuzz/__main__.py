"""Runs a fuzz target. Needs `atheris`, which is not part of the lock. From the top of the workspace:

    PYTHONPATH=engine python -m fuzz native_transport engine/fuzz/corpus/native_transport -max_total_time=600
    PYTHONPATH=engine python -m fuzz session engine/fuzz/corpus/session -max_total_time=600 -max_len=512

New inputs are added to the corpus.
"""

import logging
import sys

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore] # only fuzzing itself needs it

INSTRUMENTED = ["policy_engine.transport", "policy_engine.kernel", "policy_engine.worker", "hpack"]
with atheris.instrument_imports(include=INSTRUMENTED):
    from fuzz import native_transport, session

TARGETS = {"native_transport": native_transport.run, "session": session.run}

if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
    sys.exit(f"usage: python -m fuzz {{{','.join(TARGETS)}}} CORPUS [libFuzzer options]")
logging.disable()
atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
atheris.Fuzz()
