"""That whoever is given no limit takes the same as who is given the default settings."""

from __future__ import annotations

import dataclasses

from policy_engine import limits
from policy_engine.kernel.kernel import KernelOptions
from policy_engine.processes.serving import WorkerOptions
from policy_engine.processes.worker_options import worker_options
from policy_engine.settings.model import Settings
from policy_engine.transport.options import Limits, ServerOptions
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.chains.spec import PolicySpec
from policy_engine.worker.policies.registry import Registry


def test_kernel_transport_and_worker_have_the_defaults_of_the_settings() -> None:
    settings, kernel, transport = Settings(), KernelOptions(), Limits()
    compiler, entry = Compiler(Registry([])), PolicySpec("a", "v1")
    assert kernel.body_limit == settings.body_limit
    assert kernel.header_count == settings.limits.header_count
    assert kernel.header_size == settings.limits.header_size
    assert transport.max_concurrent_streams == settings.limits.streams
    assert compiler.threads_per_blocking_policy == settings.limits.blocking_threads
    assert compiler.construction_seconds == settings.construction_timeout
    assert entry.timeout == settings.policy_timeout


def test_what_a_worker_process_is_told_of_default_settings_is_what_it_has_untold() -> None:
    told = worker_options(Settings(), None)
    untold = {
        one.name: one.default for one in dataclasses.fields(WorkerOptions) if one.default is not dataclasses.MISSING
    }
    assert untold == {name: getattr(told, name) for name in untold}


def test_a_message_at_its_limit_fits_through_the_transport() -> None:
    told = Limits(**worker_options(Settings(), None).limits)
    for transport in (Limits(), told):
        assert transport.max_message_bytes >= limits.BODY_LIMIT + limits.MESSAGE_OVERHEAD
        assert transport.max_message_bytes >= limits.HEADER_SIZE + limits.MESSAGE_OVERHEAD
        assert transport.receive_buffer_bytes >= 4 * transport.max_message_bytes
    assert ServerOptions().backlog == limits.ACCEPT_BACKLOG
